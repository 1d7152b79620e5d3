# SPDX-License-Identifier: Apache-2.0
"""T6: the rounding of vocab_ce in reduced precision, judged against float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from vocab_ce_samples import Sample, sample

from spanbert_ext import reference


def eager(case: Sample) -> Tensor:
    """What a user would write: decode, upcast, cross-entropy."""
    return reference.vocab_ce(
        case.h, case.weight, case.bias, case.targets, case.row_weight, first_rows=case.first_rows
    ).loss


def errors(got: list[Tensor], exact: list[Tensor]) -> list[tuple[float, float]]:
    """(RMS, max) per tensor."""
    difference = [(g.double() - e) for g, e in zip(got, exact, strict=True)]
    return [(d.square().mean().sqrt().item(), d.abs().max().item()) for d in difference]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("bias_scale", [1.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_no_worse_than_eagers(dtype: torch.dtype, bias_scale: float, autocast: bool) -> None:
    """RMS over 8 seeds and the largest error of any, for the loss and each gradient; with planted peaks."""
    fused_errors, eager_errors = [], []
    for seed in range(8):
        exact_case = sample(400, 32, 515, scale=2.0, seed=seed)
        exact_case.bias *= bias_scale
        exact_case.row_weight = torch.full((400,), 1 / 400, dtype=torch.float64)
        peaks = exact_case.targets[::7].clamp_min(0)
        exact_case.h[::7] += exact_case.weight[peaks] * 2
        rounded = exact_case.to(dtype)
        exact = replace(exact_case, h=rounded.h, weight=rounded.weight, bias=rounded.bias).to(torch.float64)
        exact_loss = eager(exact)
        expected = [exact_loss, *torch.autograd.grad(exact_loss, exact.leaves())]
        given = replace(rounded).to(torch.float32) if autocast else rounded
        for run, collected in ((lambda c: c.run().loss, fused_errors), (eager, eager_errors)):
            with torch.autocast("cpu", dtype=dtype, enabled=autocast):
                loss = run(given)
            # float16 without a loss scale loses eager's gradient: scale both, as a GradScaler does.
            factor = 2.0**10
            got = [g.double() / factor for g in torch.autograd.grad(loss * factor, given.leaves())]
            collected.append(errors([loss.detach(), *got], [e.detach() for e in expected]))
    for name, fused, plain in zip(
        ("loss", "h", "weight", "bias"),
        zip(*fused_errors, strict=True),
        zip(*eager_errors, strict=True),
        strict=True,
    ):
        for kind, reduce in ((0, lambda v: sum(x * x for x in v) ** 0.5), (1, max)):
            ours, theirs = reduce([f[kind] for f in fused]), reduce([p[kind] for p in plain])
            assert ours <= 1.1 * theirs, (name, ("RMS", "max")[kind], ours, theirs)


def test_weight_gradient_error_does_not_grow_with_chunks() -> None:
    """The same rows repeated r times at weight 1/r have the same dW; its error must stay."""
    worst = []
    for repeats in (1, 16):
        base = sample(150, 32, 257, blocks=1).to(torch.bfloat16)
        case = replace(
            base,
            h=base.h.detach().repeat(repeats, 1).requires_grad_(),
            targets=base.targets.repeat(repeats),
            row_weight=base.row_weight.repeat(repeats) / repeats,
        )
        (got,) = torch.autograd.grad(case.run().loss, case.weight)
        exact = base.to(torch.float64)
        (expected,) = torch.autograd.grad(eager(exact), exact.weight)
        worst.append((got.double() - expected).abs().max().item())
    assert worst[1] <= 1.1 * worst[0]


def test_float16_keeps_its_gradient_over_40000_rows() -> None:
    rows = 40_000
    case = sample(rows, 8, 65, blocks=1, ignored=0)
    case.row_weight = torch.full((rows,), 1 / rows, dtype=torch.float64)
    half, exact = case.to(torch.float16), case.to(torch.float16).to(torch.float64)
    scale = 65536.0  # torch.amp.GradScaler's initial scale, larger than float16's largest number
    got = torch.autograd.grad(half.run().loss * scale, half.h)[0].double() / scale
    (expected,) = torch.autograd.grad(eager(exact), exact.h)
    assert (got - expected).abs().max() < 2**-10 * expected.abs().max()
    assert ((got == 0) & (expected != 0)).double().mean() < 0.01


def test_a_float16_bias_has_a_gradient_whatever_the_number_of_rows() -> None:
    rows = 100_000
    case = sample(rows, 4, 16, blocks=1, ignored=0)
    case.targets[:] = 5
    case.row_weight = torch.full((rows,), 1 / rows, dtype=torch.float64)
    half = case.to(torch.float16)
    (got,) = torch.autograd.grad(half.run().loss, half.bias)
    exact = half.to(torch.float64)
    (expected,) = torch.autograd.grad(eager(exact), exact.bias)
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(got.double(), expected, rtol=2e-3, atol=1e-4)


def test_float16_unit_ignores_rows_without_a_target() -> None:
    case = sample(64, 8, 65, blocks=1, ignored=0)
    case.row_weight = torch.full((64,), 1 / 40_000, dtype=torch.float64)
    case.targets[0] = -100
    results = []
    for weight_of_ignored in (0.0, 1e30, float("inf")):
        half = case.to(torch.float16)
        half.row_weight[0] = weight_of_ignored
        loss = half.run().loss * 2**16
        results.append([loss.detach(), *torch.autograd.grad(loss, half.leaves())])
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)
