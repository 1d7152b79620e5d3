# SPDX-License-Identifier: Apache-2.0
"""How fast the device copies and multiplies, measured now."""

from __future__ import annotations

from collections.abc import Callable

import torch

from support.clock import Stopwatch


def _best_ms(device: torch.device, work: Callable[[], object], times: int = 5) -> float:
    watch = Stopwatch(device)
    found = []
    for _ in range(times + 1):  # the first is the warm-up
        watch.start()
        work()
        watch.mark("end")
        found.append(watch.read()["end"])
    return min(found[1:])


def gemm_tflop_s(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Rate of a product of two square matrices, measured now, best of five."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)
    return 2 * size**3 / _best_ms(device, lambda: torch.mm(left, right, out=product)) / 1e9


def multiplies_fast(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch multiplies matrices of `dtype` at least as fast as float32 there: on many CPUs it has no
    kernels for bfloat16 and takes a hundred times as long."""
    if device.type != "cpu" or dtype == torch.float32:
        return True
    return gemm_tflop_s(device, dtype, 256) >= gemm_tflop_s(device, torch.float32, 256)


def device_rates(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Copy bandwidth in GB/s (read plus written) and GEMM rate in TFLOP/s, measured now, best of five."""
    size, elements = (8192, 2**28) if device.type == "cuda" else (1024, 2**24)
    source = torch.randn(elements, device=device)
    target = torch.empty_like(source)
    return {
        "copy_gb_s": 2 * source.nbytes / _best_ms(device, lambda: target.copy_(source)) / 1e6,
        "gemm_tflop_s": gemm_tflop_s(device, dtype, size),
    }
