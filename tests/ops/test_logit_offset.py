# SPDX-License-Identifier: Apache-2.0
"""T6, T7: a value that all logits have in common changes neither loss nor gradient, and must not take their digits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from vocab_ce_samples import Sample, sample

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)])
SEEDS = 5


def shifted(offset: float, dtype: torch.dtype, seed: int, device: str, smoothing: float) -> Sample:
    """The offset comes through the bias: the operator adds it to a logit in one rounding, as eager does."""
    case = sample(64, 48, 600, blocks=1, ignored=0.1, label_smoothing=smoothing, seed=seed)
    case.bias = torch.full_like(case.bias, offset)
    case.row_weight = torch.full_like(case.row_weight, 1 / 64)
    case.targets = case.targets.to(device)
    case = case.to(dtype)
    for name in ("h", "weight", "bias", "row_weight"):
        value = getattr(case, name)
        setattr(case, name, value.detach().to(device).requires_grad_(value.requires_grad))
    return case


def values(case: Sample, impl: str) -> dict[str, Tensor]:
    output = case.run(impl)
    dh, dw = torch.autograd.grad(output.loss, [case.h, case.weight])
    return {"nll": output.nll, "dh": dh, "dw": dw}


def worst_ratios(dtype: torch.dtype, make: Callable[[int], Sample]) -> dict[tuple[str, str], float]:
    """The operator's error over eager's, both against float64: RMS over all seeds and largest of all."""
    ours, theirs = {}, {}
    for seed in range(SEEDS):
        case = make(seed)
        exact = values(case.to(torch.float64), "reference")
        for impl, errors in (("fused", ours), ("reference", theirs)):
            for name, value in values(case, impl).items():
                errors.setdefault(name, []).append((value.double() - exact[name]).flatten())
    ratios = {}
    for name, parts in ours.items():
        got, plain = torch.cat(parts), torch.cat(theirs[name])
        # One rounding of the largest value is no loss of digits, also where eager happens to be more exact.
        rounding = torch.finfo(dtype).eps * exact[name].abs().max().item()
        ratios[name, "RMS"] = (got.square().mean().sqrt() / plain.square().mean().sqrt()).item()
        ratios[name, "max"] = got.abs().max().item() / max(plain.abs().max().item(), rounding)
    return ratios


@DEVICES
@pytest.mark.parametrize(
    ("offset", "smoothing"),
    [(0.0, 0.0), (0.0, 0.1), (10.0, 0.0), (30.0, 0.0), (30.0, 0.1), (100.0, 0.0), (1e4, 0.0), (-1e4, 0.1)],
)
def test_t6_float32_errors_are_no_larger_than_eagers(offset: float, smoothing: float, device: str) -> None:
    ratios = worst_ratios(torch.float32, lambda seed: shifted(offset, torch.float32, seed, device, smoothing))
    assert max(ratios.values()) <= 1.1, ratios


@DEVICES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("offset", [0.0, 100.0, 1e4])
def test_t6_16_bit_errors_are_no_larger_than_eagers(offset: float, dtype: torch.dtype, device: str) -> None:
    ratios = worst_ratios(dtype, lambda seed: shifted(offset, dtype, seed, device, 0.0))
    assert max(ratios.values()) <= 1.1, ratios
