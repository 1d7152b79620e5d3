# SPDX-License-Identifier: Apache-2.0
"""T4: every size that may be 0 in every operator, forward and backward, against the reference."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from boundary_samples import Sample as BoundarySample
from boundary_samples import indices
from torch import Tensor

from spanbert_ext import ops, reference

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)])
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def normal(*shape: int, dtype: torch.dtype, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return values.to(device, dtype).requires_grad_()


def assert_all_close(got: object, expected: object, dtype: torch.dtype, tolerance: dict) -> None:
    torch.testing.assert_close(got, expected, **tolerance[dtype], equal_nan=False)


# --- vocab_ce -----------------------------------------------------------------------------------------------------


@DEVICES
@EVERY_DTYPE
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(
    ("rows", "width", "vocab"), [(0, 0, 5), (0, 4, 5), (7, 0, 1), (7, 0, 900), (340, 0, 5)]
)
def test_vocab_ce(rows, width, vocab, has_bias, smoothing, dtype, device, tolerance) -> None:
    h, weight = (normal(n, width, dtype=dtype, device=device) for n in (rows, vocab))
    bias = normal(3, vocab, dtype=dtype, device=device) if has_bias else None
    targets = torch.arange(rows, device=device) % (vocab + 1) - 1
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    row_weight = torch.full((rows,), 1 / max(rows, 1), dtype=acc, device=device)
    results = []
    for impl in ("fused", "reference"):
        output = ops.vocab_ce(
            h,
            weight,
            bias,
            targets,
            row_weight,
            first_rows=(0, 0, rows // 2),
            label_smoothing=smoothing,
            impl=impl,
        )
        leaves = [leaf for leaf in (h, weight, bias) if leaf is not None]
        results.append((*output, *torch.autograd.grad(output.loss, leaves)))
    assert_all_close(*results, dtype, tolerance)


@DEVICES
@EVERY_DTYPE
@pytest.mark.parametrize("needs", list(product((False, True), repeat=3)))
@pytest.mark.parametrize(("rows", "max_rows"), [(0, 0), (0, 9), (7, 0), (7, 9)])
def test_vocab_ce_without_a_live_row_or_width(rows, max_rows, needs, dtype, device) -> None:
    """Every combination of gradients that are asked for, straight from the operator."""
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    for width in (0, 4):
        h, weight, bias = (
            normal(*shape, dtype=dtype, device=device) for shape in ((rows, width), (5, width), (1, 5))
        )
        targets = torch.full((rows,), -1 if max_rows == 0 else 2, device=device)
        row_weight = torch.ones(rows, dtype=acc, device=device)
        with torch.no_grad():
            loss, nll, prediction, _, dh_rows, compact_rows, dw, db = torch.ops.spanbert_ext.vocab_ce(
                h, weight, bias, [0], targets, row_weight, dtype, 0.0, max_rows, *needs
            )
        assert prediction.shape == compact_rows.shape == nll.shape == (rows,)
        assert dh_rows.shape == ((128 if min(rows, max_rows) else 0, width) if needs[0] else (0,))
        assert dw.shape == (weight.shape if needs[1] else (0,))
        assert db.shape == (bias.shape if needs[2] else (0,))
        if max_rows == 0 or rows == 0:
            assert loss == 0 and not nll.any() and (prediction == -1).all()
            assert not any(gradient.any() for gradient in (dh_rows, dw, db))
        else:
            assert loss > 0


@DEVICES
def test_vocab_ce_without_a_vocabulary_or_a_group_is_refused(device) -> None:
    h, none = torch.zeros(3, 4, device=device), torch.zeros(0, 4, device=device)
    targets, row_weight = torch.zeros(3, dtype=torch.int64, device=device), torch.ones(3, device=device)
    with pytest.raises(ValueError, match=r"weight has shape \[0, 4\], expected \[V, D\] with V > 0"):
        ops.vocab_ce(h, none, None, targets, row_weight)
    with pytest.raises(ValueError, match=r"first_rows is \[\], expected the first row of each group"):
        ops.vocab_ce(h, h, None, targets, row_weight, first_rows=())


@DEVICES
@EVERY_DTYPE
@pytest.mark.parametrize(
    ("rows", "total", "width"), [(0, 0, 0), (0, 0, 4), (0, 5, 4), (3, 0, 4), (3, 5, 0), (0, 5, 0)]
)
def test_vocab_ce_gradient_rows(rows, total, width, dtype, device) -> None:
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    out = torch.ops.spanbert_ext.vocab_ce_gradient_rows(
        torch.ones(rows, width, dtype=dtype, device=device),
        torch.full((total,), -1, device=device),
        torch.tensor(2.0, dtype=acc, device=device),
        dtype,
    )
    assert out.shape == (total, width) and not out.any()
    nothing = torch.ones(0, width, dtype=dtype, device=device)
    torch.ops.spanbert_ext.vocab_ce_scale_(nothing, torch.tensor(2.0, dtype=acc, device=device))


# --- boundary_mlp -------------------------------------------------------------------------------------------------

SIZES = {"B": 2, "L": 6, "K": 3, "H": 4, "S": 3, "P": 2, "E": 5, "D": 4, "R": 3}
ZEROS = [*SIZES, "HP", "HE", "PE", "ED", "SP", "BR", "KH", "LR", "BLKHSPEDR"]


def boundary_sample(zeros: str, dtype: torch.dtype, device: str) -> tuple[BoundarySample, Tensor]:
    n = {name: 0 if name in zeros else size for name, size in SIZES.items()}
    spans = [[(1, 3)] if n["L"] and n["K"] else [] for _ in range(n["B"])]
    masked, left, right = (t.to(device) for t in indices(spans, n["L"], n["K"], n["S"]))

    def parameter(*shape: int) -> Tensor:
        return normal(*shape, dtype=dtype, device=device).detach()

    sample = BoundarySample(
        parameter(n["B"], n["L"], n["H"]),
        masked,
        left,
        right,
        parameter(n["S"], n["P"]),
        parameter(n["E"], 2 * n["H"] + n["P"]),
        *(parameter(n["E"]) for _ in range(3)),
        parameter(n["D"], n["E"]),
        *(parameter(n["D"]) for _ in range(3)),
    )
    token_rows = torch.arange(n["R"], device=device) % max(n["B"] * n["L"], 1) - 1
    return sample, token_rows


def at_least_one(values: Tensor, dim: int) -> Tensor:
    shape = [max(size, 1) if i == dim else size for i, size in enumerate(values.shape)]
    return values if values.shape[dim] else values.new_zeros(shape)


@DEVICES
@EVERY_DTYPE
@pytest.mark.parametrize("zeros", ZEROS)
def test_boundary_mlp(zeros, dtype, device, tolerance) -> None:
    sample, token_rows = boundary_sample(zeros, dtype, device)
    wide, narrow = sample.masked_positions.shape, sample.weight2.shape[0]
    grad_y = torch.ones(*wide, narrow, dtype=dtype, device=device)
    grad_rows = torch.ones(len(token_rows), sample.x.shape[2], dtype=dtype, device=device)
    for max_rows in (None, 0 if (sample.left_boundary < 0).all() else 9):
        for rows in (None, token_rows):
            options = {"max_rows": max_rows, "token_rows": rows, "grad_rows": grad_rows}
            got = sample.value_and_gradients("fused", grad_y, **options)
            # The reference reads token 0 and slot 0 for rows without a target, to discard what it finds there.
            padded = replace(sample, x=at_least_one(sample.x, 1), positions=at_least_one(sample.positions, 0))
            if rows is not None and not sample.x.shape[1]:
                options["token_rows"] = rows.fill_(-1)
            if dtype in (
                torch.bfloat16,
                torch.float16,
            ):  # rounded once more at every step, the reference is no judge
                padded = padded.to(torch.float64)
            expected = padded.value_and_gradients("reference", grad_y.to(padded.x.dtype), **options)
            expected = {name: value.to(dtype) for name, value in expected.items()}
            expected["x"] = expected["x"][:, : sample.x.shape[1]]
            expected["positions"] = expected["positions"][: len(sample.positions)]
            assert_all_close(got, expected, dtype, tolerance)


# --- span_mask ----------------------------------------------------------------------------------------------------


def masked(impl: str, ids: Tensor, **options: object) -> ops.SpanMaskOutput:
    device = ids.device
    given = {
        "kinds": torch.ones(9, dtype=torch.uint8, device=device),
        "random_ids": torch.arange(9, device=device),
        "seed": 1,
        "epoch": 0,
        "mask_token_id": 4,
        "ratio": 0.5,
    }
    return ops.span_mask(ids, **(given | options), impl=impl)


@DEVICES
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ratio": 0.0},
        {"position_slots": 0},
        {"random_share": 0.0, "random_ids": (0,)},
        {"candidates": (0, 2)},
        {"candidates": (0, 2), "fill_after_candidates": False},
        {"candidates": (0, 2), "candidate_share": 0.5},
        {"explicit": True},
        {"epoch": True, "sample_ids": True, "attention_mask": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(0, 0), (0, 7), (3, 0), (3, 7)])
def test_span_mask(shape, options, dtype, device) -> None:
    ids = torch.full(shape, 3, dtype=dtype, device=device)
    rows, options = shape[0], dict(options)
    if "random_ids" in options:
        options["random_ids"] = torch.empty(*options["random_ids"], dtype=torch.int64, device=device)
    if "candidates" in options:
        options["candidates"] = torch.empty(rows, *options["candidates"], dtype=torch.int64, device=device)
    if options.pop("explicit", False):
        options["kinds"] = torch.ones(shape, dtype=torch.uint8, device=device)
    if "epoch" in options:
        options["epoch"] = options["sample_ids"] = torch.zeros(rows, dtype=torch.int64, device=device)
        options["attention_mask"] = torch.zeros(shape, dtype=torch.bool, device=device)
    got, expected = (masked(impl, ids, **options) for impl in ("fused", "reference"))
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.equal(ours, theirs)


@DEVICES
@pytest.mark.parametrize("rows", [2**40, 2**31])
def test_span_mask_of_very_many_empty_rows_returns_at_once(rows, device) -> None:
    """No loop over the rows and no memory for them: neither would end."""
    ids = torch.empty(rows, 0, dtype=torch.int64, device=device)
    kinds = torch.empty(rows, 0, dtype=torch.uint8, device=device)
    epoch = torch.zeros(1, dtype=torch.int64, device=device).expand(rows)
    candidates = torch.empty(rows, 0, 2, dtype=torch.int64, device=device)
    for options in ({}, {"kinds": kinds, "vocab_size": 9}, {"candidates": candidates}):
        output = masked("fused", ids, **options)
        assert output.masked_ids.shape == output.labels.shape == (rows, 0)
        assert output.masked_positions.shape == output.left_boundary.shape == (rows, 0)
    assert masked("fused", ids, epoch=epoch, sample_ids=epoch).labels.shape == (rows, 0)


@DEVICES
def test_span_mask_refuses_a_table_of_nothing_and_rows_that_are_too_long(device) -> None:
    ids = torch.empty(0, 2**40, dtype=torch.int64, device=device)
    with pytest.raises(
        ValueError, match=r"input_ids has rows of 1099511627776 tokens; expected fewer than 2\^28"
    ):
        masked("fused", ids)
    with pytest.raises(ValueError, match=r"kinds has shape \[0\]; expected one kind for each id"):
        masked("fused", ids[:, :3], kinds=torch.empty(0, dtype=torch.uint8, device=device))


# --- head_targets and head_statistics -----------------------------------------------------------------------------


@DEVICES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_rows", [None, 0, 5])
@pytest.mark.parametrize("has_sbo", [False, True])
@pytest.mark.parametrize(("batch", "length", "slots"), [(0, 0, 0), (0, 7, 3), (2, 0, 0), (2, 7, 0)])
def test_heads(batch, length, slots, has_sbo, max_rows, dtype, device) -> None:
    labels = torch.full((batch, length), 3, device=device)
    positions = torch.full((batch, slots), -1, device=device)
    results = []
    for package in (ops, reference):
        heads = package.head_targets(
            labels, positions, positions if has_sbo else None, dtype=dtype, max_rows=max_rows
        )
        nll = torch.zeros(len(heads.targets), dtype=dtype, device=device)
        found = package.head_statistics(nll, heads.targets, heads.targets, heads.ranks, has_sbo=has_sbo)
        results.append((*heads, *found))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert not results[0][7].any()  # means over no rows


@DEVICES
def test_positions_of_rows_without_a_token(device) -> None:
    """L = 0 with K > 0: no position is read, and one that is none of the row's is refused or has no loss."""
    labels = torch.empty(2, 0, dtype=torch.int64, device=device)
    heads = ops.head_targets(labels, torch.full((2, 3), -1, device=device))
    assert (heads.token_rows == -1).all() and not heads.counts.any() and not heads.row_weight.any()
