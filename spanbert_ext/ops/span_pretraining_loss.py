# SPDX-License-Identifier: Apache-2.0
"""The SpanBERT loss over encoder outputs: both heads' rows, decoded once (paper sections 2.2 and 2.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spanbert_ext import reference
from spanbert_ext.ops import _span_pretraining_loss_checks as checks
from spanbert_ext.ops._common import (
    Impl,
    accumulation_dtype,
    compute_dtype,
    integer,
    may_read_values,
    real,
    use_reference,
)
from spanbert_ext.ops._vocab_ce_checks import check_label_smoothing
from spanbert_ext.ops.head_targets import count_tensor, head_statistics, head_targets
from spanbert_ext.ops.vocab_ce import vocab_ce
from spanbert_ext.reference.outputs import SpanPretrainingOutput

_OP = "span_pretraining_loss"
_MOST_ITEMS = 2**63
_MOST_ROWS = 2**62  # of each of two heads


def span_pretraining_loss(
    x: Tensor,
    labels: Tensor,
    masked_positions: Tensor,
    left_boundary: Tensor | None = None,
    right_boundary: Tensor | None = None,
    *,
    transform: Callable[[Tensor], Tensor],
    weight: Tensor,
    bias: Tensor | None,
    boundary_rows: Callable[..., Tensor] | None = None,
    sbo_bias: Tensor | None = None,
    sbo_weight: float | Tensor = 1.0,
    num_items_in_batch: Tensor | float | None = None,
    num_sbo_items: Tensor | float | None = None,
    label_smoothing: float = 0.0,
    max_rows: int | None = None,
    impl: Impl = "fused",
) -> SpanPretrainingOutput:
    """`mean MLM loss + sbo_weight * mean SBO loss` of a masked batch; zero rows give a zero loss, never NaN.

    Args:
        x: [B, L, H] encoder outputs.
        labels: [B, L] int64 original ids; negative where there is no target.
        masked_positions: [B, K] int64, the positions with a target, padded with -1.
        left_boundary, right_boundary: [B, K] int64, the positions s-1 and e+1 around each masked token's span, -1
            where the token takes no part in SBO. None: MLM alone.
        transform: the model's own MLM transform, [..., H] -> [..., D], row by row; its modules are not rewritten. It is
            called with the rows that have a target, [1, R, H]; where the host does not know how many these are,
            rows that count for nothing follow them.
        weight, bias: decoder matrix [V, D] and MLM bias [V] or None.
        boundary_rows: the SBO representation, called as
            `boundary_rows(x, masked_positions, left_boundary, right_boundary, impl=impl)` -> [B, K, D], with
            `max_rows` too where it is given; a `SpanBoundaryHead` or a closure over `ops.boundary_mlp`. Needed with
            boundaries. One with a true attribute `gives_token_rows` is called with `token_rows` ([R] int64, rows of x
            as [B*L, H]) too and returns a pair, the second its rows of x: x's gradient is then written once.
        sbo_bias: [V], SBO's own vocabulary bias (None: zeros where the MLM has a bias).
        sbo_weight: lambda, 1 in the paper; a 0-dim tensor of it may require a gradient.
        num_items_in_batch, num_sbo_items: targets of each head over all accumulated batches and processes; they
            replace the local counts, so that accumulated gradients equal those of one large batch. With
            `num_items_in_batch` alone, SBO's mean is scaled by this batch's share of the MLM targets: exact when every
            batch has the same ratio of SBO to MLM targets, close otherwise. Pass both for exactness.
        label_smoothing: as in `vocab_ce`, for both heads.
        max_rows: an upper bound of the masked positions with a label, and of those with boundaries, where the caller
            knows one without asking the device (they are B*K at most). With ragged rows it spares CUDA most of its
            work; best rounded up to a multiple of 256. Too small a bound makes the loss NaN on CUDA and raises on the
            CPU.
        impl: "fused" or "reference".

    Raises:
        ValueError, IndexError, TypeError: naming the argument, what it was and what was expected.
    """
    plain = use_reference(impl)
    has_sbo = left_boundary is not None
    head_tensors = {"weight": weight, "bias": bias, "sbo_bias": sbo_bias}
    checks.check_batch(x, labels, masked_positions, left_boundary, right_boundary, **head_tensors)
    checks.check_decoder(**head_tensors)
    checks.check_functions(transform, boundary_rows, has_sbo)
    acc = accumulation_dtype(compute_dtype(_OP, x, {}))
    compute_dtype(_OP, weight, {"bias": bias, "sbo_bias": sbo_bias}, "weight")
    sbo_weight = _as_number("sbo_weight", sbo_weight, x)
    num_items_in_batch = _as_number("num_items_in_batch", num_items_in_batch, x)
    num_sbo_items = _as_number("num_sbo_items", num_sbo_items, x)
    label_smoothing = real(f"{_OP}: label_smoothing", label_smoothing)
    check_label_smoothing(_OP, label_smoothing)
    max_rows = None if max_rows is None else integer(f"{_OP}: max_rows", max_rows)
    if max_rows is not None and not 0 <= max_rows < _MOST_ROWS:
        raise ValueError(f"{_OP}: max_rows is {max_rows}, expected at least 0 and below 2^62")
    mlm_rows = max_rows
    if may_read_values(labels):
        mlm_rows = checks.count_targets(labels, masked_positions, left_boundary, weight.shape[0], max_rows)
    transform = checks.checked_transform(transform, weight)
    if has_sbo:
        boundary_rows = checks.CheckedBoundaryRows(boundary_rows, weight.shape[1])
    if plain:
        return reference.span_pretraining_loss(
            x,
            labels,
            masked_positions,
            left_boundary,
            right_boundary,
            transform=transform,
            weight=weight,
            bias=bias,
            boundary_rows=boundary_rows,
            sbo_bias=sbo_bias,
            sbo_weight=sbo_weight,
            num_items_in_batch=num_items_in_batch,
            num_sbo_items=num_sbo_items,
            label_smoothing=label_smoothing,
            max_rows=max_rows,
        )

    heads = head_targets(
        labels,
        masked_positions,
        left_boundary,
        num_items=count_tensor(num_items_in_batch, labels, acc),
        num_sbo_items=count_tensor(num_sbo_items, labels, acc),
        sbo_weight=1.0 if isinstance(sbo_weight, Tensor) else sbo_weight,
        dtype=acc,
        max_rows=mlm_rows,
    )
    if has_sbo:
        assert boundary_rows is not None and right_boundary is not None  # checks
        options = {"impl": "fused"} if max_rows is None else {"impl": "fused", "max_rows": max_rows}
        indices = (masked_positions, left_boundary, right_boundary)
        if boundary_rows.gives_token_rows:
            h_sbo, rows = boundary_rows(x, *indices, token_rows=heads.token_rows, **options)
        else:
            h_sbo, rows = boundary_rows(x, *indices, **options), _rows_at(x, heads.token_rows)
        h = transform(rows[None])[0]  # [R, D]
        first_rows = [0, h.shape[0]]
        h = torch.cat([h, h_sbo.flatten(0, 1).to(h.dtype)])  # [R + B*K, D]
        biases = _stack_biases(bias, sbo_bias, weight)
    else:
        h = transform(_rows_at(x, heads.token_rows)[None])[0]
        first_rows = [0]
        biases = None if bias is None else bias[None]

    row_weight = heads.row_weight
    if isinstance(sbo_weight, Tensor) and has_sbo:  # it may be learnt
        mlm_weight, sbo_weights = row_weight.split([first_rows[1], masked_positions.numel()])
        row_weight = torch.cat([mlm_weight, sbo_weights * sbo_weight.to(acc).reshape(())])
    loss, nll, prediction = vocab_ce(
        h,
        weight,
        biases,
        heads.targets,
        row_weight,
        first_rows=first_rows,
        label_smoothing=label_smoothing,
        max_rows=None if mlm_rows is None else len(first_rows) * mlm_rows,
    )
    found = head_statistics(nll, prediction, heads.targets, heads.ranks, has_sbo=has_sbo)
    return SpanPretrainingOutput.of(loss, heads.counts, found)


def _as_number(name: str, value: Tensor | float | None, x: Tensor) -> Tensor | float | None:
    if value is None and name != "sbo_weight":
        return None
    if isinstance(value, Tensor):
        checks.check_one_value(name, value, x.device)
        return value
    number = real(f"{_OP}: {name}", value)
    if name != "sbo_weight" and not 0 <= number <= _MOST_ITEMS:
        raise ValueError(f"{_OP}: {name} is {number}, expected the number of targets of a step")
    return number


def _rows_at(x: Tensor, token_rows: Tensor) -> Tensor:
    """[B, L, H], [R] -> [R, H]; the first row of all where there is no token."""
    return x.flatten(0, 1).index_select(0, token_rows.clamp_min(0))


def _stack_biases(bias: Tensor | None, sbo_bias: Tensor | None, weight: Tensor) -> Tensor | None:
    """[2, V] or None; a head without a bias gets zeros beside one that has it."""
    if bias is None and sbo_bias is None:
        return None
    zeros = weight.new_zeros(weight.shape[0])
    return torch.stack([zeros if b is None else b for b in (bias, sbo_bias)])
