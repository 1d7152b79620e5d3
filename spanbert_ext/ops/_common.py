"""What the public functions of all operators share: dtype rules, device checks, choice of implementation."""

from __future__ import annotations

import os
from typing import Literal

import torch
from torch import Tensor

from spanbert_ext._library import missing_cuda_kernels

Impl = Literal["fused", "reference"]

_COMPUTE_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def use_reference(impl: str) -> bool:
    """True for the plain PyTorch implementation; raises ValueError for an unknown name."""
    if impl not in ("fused", "reference"):
        raise ValueError(f"impl is {impl!r}, expected 'fused' or 'reference'")
    return impl == "reference"


def compute_dtype(op: str, x: Tensor, parameters: dict[str, Tensor | None]) -> torch.dtype:
    """The dtype of the GEMM operands: autocast's where it is on for x's device, else x's own.

    Operators read it here and cast inside, so that float32 master weights and row weights stay what they are.
    float64 is never cast, as in torch's own autocast.

    Raises:
        TypeError: x is not a supported floating dtype, or a parameter has another dtype and autocast is off.
    """
    if x.dtype not in _COMPUTE_DTYPES:
        raise TypeError(
            f"{op}: input has dtype {x.dtype}, expected one of {', '.join(map(str, _COMPUTE_DTYPES))}"
        )
    device = x.device.type
    # The one device without autocast, by name: torch 2.11 cannot compile a call of is_autocast_available.
    if device != "meta" and torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    for name, parameter in parameters.items():
        if parameter is not None and parameter.dtype != x.dtype:
            raise TypeError(
                f"{op}: {name} has dtype {parameter.dtype} and the input has {x.dtype}, expected the same dtype "
                f"(or an active torch.autocast({device!r}), under which they may differ)"
            )
    return x.dtype


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything else: the dtype of sums, losses and row weights."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_devices(op: str, input_name: str, x: Tensor, **others: Tensor | None) -> None:
    """Raises ValueError when a tensor lies on another device than x."""
    for name, tensor in others.items():
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{op}: {name} is on {tensor.device}, expected {x.device} as {input_name}")


def require_kernels(op: str, x: Tensor) -> None:
    """Raises RuntimeError, with the remedy, when no kernel of this build runs on x's device."""
    if x.device.type in ("cpu", "meta"):
        return
    if x.device.type != "cuda":
        raise RuntimeError(
            f"{op}: input is on {x.device}, expected cpu or cuda; impl='reference' runs anywhere"
        )
    missing = missing_cuda_kernels()
    if missing:
        raise RuntimeError(
            f"{op}: input is on {x.device}, but this build of spanbert_ext has no CUDA kernels "
            f"({missing}). Install a CUDA build of torch and nvcc, then rebuild: "
            "SPANBERT_EXT_CUDA=ON pip install --no-build-isolation --force-reinstall --no-deps spanbert-ext. "
            "impl='reference' works meanwhile."
        )


def may_read_values(x: Tensor) -> bool:
    """Whether a check may look at x's elements: always on the CPU, on CUDA only when SPANBERT_EXT_DEBUG=1.

    Inside torch.compile nothing is read: it would break the graph.
    """
    if torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" or (x.device.type == "cuda" and os.environ.get("SPANBERT_EXT_DEBUG") == "1")
