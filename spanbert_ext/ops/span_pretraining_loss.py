"""The SpanBERT loss over encoder outputs: both heads' rows, decoded once (paper sections 2.2 and 2.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from spanbert_ext.ops._common import Impl, accumulation_dtype, compute_dtype, may_read_values
from spanbert_ext.ops.head_targets import head_statistics, head_targets
from spanbert_ext.ops.vocab_ce import vocab_ce


class SpanPretrainingOutput(NamedTuple):
    """Only `loss` carries a gradient. Losses are in nats, each a mean over its own head's rows of this batch."""

    loss: Tensor  # []
    mlm_loss: Tensor  # []
    sbo_loss: Tensor  # []
    mlm_count: Tensor  # [] int64, rows with an MLM target
    sbo_count: Tensor  # [] int64
    mlm_accuracy: Tensor  # [] share of rows whose arg max is the target; 0 without rows
    sbo_accuracy: Tensor  # []
    row_statistics: Tensor  # [B, 6] sums: MLM nll, rows, correct; SBO nll, rows, correct
    mlm_prediction: Tensor  # [B, K] int64, -1 where there is no target
    sbo_prediction: Tensor  # [B, K]


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
    num_items_in_batch: Tensor | int | None = None,
    num_sbo_items: Tensor | int | None = None,
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
        max_rows: an upper bound of the MLM targets, where the caller knows one without asking the device (they are
            B*K at most). With ragged rows it spares CUDA most of its work; best rounded up to a multiple of 256. Too
            small a bound makes the loss NaN on CUDA and raises on the CPU.
        impl: "fused" or "reference".

    Raises:
        ValueError, IndexError, TypeError: naming the argument, what it was and what was expected.
    """
    _check(x, labels, masked_positions, left_boundary, right_boundary, boundary_rows, weight, bias, sbo_bias)
    acc = accumulation_dtype(compute_dtype("span_pretraining_loss", x, {}))

    has_sbo = left_boundary is not None
    mlm_rows = max_rows
    if may_read_values(labels):
        targets = _count_targets(labels, masked_positions)
        if max_rows is None or targets < max_rows:  # a smaller bound is a mistake that head_targets reports
            mlm_rows = targets
    heads = head_targets(
        labels,
        masked_positions,
        left_boundary,
        num_items=_as_count(num_items_in_batch, labels, acc),
        num_sbo_items=_as_count(num_sbo_items, labels, acc),
        sbo_weight=1.0 if isinstance(sbo_weight, Tensor) else sbo_weight,
        dtype=acc,
        max_rows=mlm_rows,
        impl=impl,
    )
    if has_sbo:
        assert boundary_rows is not None and right_boundary is not None  # _check
        options = {"impl": impl} if max_rows is None else {"impl": impl, "max_rows": max_rows}
        indices = (masked_positions, left_boundary, right_boundary)
        if getattr(boundary_rows, "gives_token_rows", False):
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
        row_weight = torch.cat([mlm_weight, sbo_weights * sbo_weight.to(acc)])
    loss, nll, prediction = vocab_ce(
        h,
        weight,
        biases,
        heads.targets,
        row_weight,
        first_rows=first_rows,
        label_smoothing=label_smoothing,
        max_rows=None if mlm_rows is None else len(first_rows) * mlm_rows,
        impl=impl,
    )
    found = head_statistics(nll, prediction, heads.targets, heads.ranks, has_sbo=has_sbo, impl=impl)
    mlm_loss, sbo_loss, mlm_accuracy, sbo_accuracy = found.means.unbind()
    mlm_count, sbo_count = heads.counts.unbind()
    return SpanPretrainingOutput(
        loss,
        mlm_loss=mlm_loss,
        sbo_loss=sbo_loss,
        mlm_count=mlm_count,
        sbo_count=sbo_count,
        mlm_accuracy=mlm_accuracy,
        sbo_accuracy=sbo_accuracy,
        row_statistics=found.row_statistics,
        mlm_prediction=found.mlm_prediction,
        sbo_prediction=found.sbo_prediction,
    )


def _count_targets(labels: Tensor, masked_positions: Tensor) -> int:
    """How many masked positions have a label, where that costs no synchronisation."""
    masked = masked_positions >= 0
    return int((labels.gather(1, masked_positions.clamp_min(0)).ge(0) & masked).sum())


def _rows_at(x: Tensor, token_rows: Tensor) -> Tensor:
    """[B, L, H], [R] -> [R, H]; the first row of all where there is no token."""
    return x.reshape(-1, x.shape[-1]).index_select(0, token_rows.clamp_min(0))


def _as_count(count: Tensor | int | None, like: Tensor, dtype: torch.dtype) -> Tensor | None:
    if count is None:
        return None
    if isinstance(count, Tensor):
        if count.device.type != "cpu" or like.device.type != "cuda" or torch.compiler.is_compiling():
            return count.to(like.device, dtype)
        count = count.item()
    return torch.full((), count, dtype=dtype, device=like.device)  # filled there; a copy would synchronise


def _stack_biases(bias: Tensor | None, sbo_bias: Tensor | None, weight: Tensor) -> Tensor | None:
    """[2, V] or None; a head without a bias gets zeros beside one that has it."""
    if bias is None and sbo_bias is None:
        return None
    zeros = weight.new_zeros(weight.shape[0])
    return torch.stack([zeros if b is None else b for b in (bias, sbo_bias)])


def _check(
    x: Tensor,
    labels: Tensor,
    masked_positions: Tensor,
    left_boundary: Tensor | None,
    right_boundary: Tensor | None,
    boundary_rows: Callable[..., Tensor] | None,
    weight: Tensor,
    bias: Tensor | None,
    sbo_bias: Tensor | None,
) -> None:
    if x.dim() != 3:
        raise ValueError(f"x has shape {list(x.shape)}, expected [B, L, H]")
    if x.shape[1] == 0 and masked_positions.numel() > 0:
        raise ValueError(f"x has shape {list(x.shape)}, expected tokens (L > 0) where positions are masked")
    if labels.shape != x.shape[:2]:
        raise ValueError(f"labels has shape {list(labels.shape)}, expected {list(x.shape[:2])} as x")
    if masked_positions.dim() != 2 or masked_positions.shape[0] != x.shape[0]:
        raise ValueError(
            f"masked_positions has shape {list(masked_positions.shape)}, expected [{x.shape[0]}, K]: one row per "
            "row of x"
        )
    if (left_boundary is None) != (right_boundary is None):
        raise ValueError("left_boundary and right_boundary go together: one is None, the other is not")
    if left_boundary is not None and boundary_rows is None:
        raise ValueError("boundary_rows is None, expected a SpanBoundaryHead when boundaries are given")
    for name, head_bias in (("bias", bias), ("sbo_bias", sbo_bias)):
        if head_bias is not None and head_bias.shape != weight.shape[:1]:
            raise ValueError(
                f"{name} has shape {list(head_bias.shape)}, expected [V] = {list(weight.shape[:1])}"
            )
    indices = {
        "labels": labels,
        "masked_positions": masked_positions,
        "left_boundary": left_boundary,
        "right_boundary": right_boundary,
    }
    for name, index in indices.items():
        if index is None:
            continue
        if index.dtype != torch.int64:
            raise TypeError(f"{name} has dtype {index.dtype}, expected int64")
        if index.device != x.device:
            raise ValueError(f"{name} is on {index.device}, expected {x.device} as x")
        if name != "labels" and index.shape != masked_positions.shape:
            raise ValueError(
                f"{name} has shape {list(index.shape)}, expected {list(masked_positions.shape)} as masked_positions"
            )
    if may_read_values(masked_positions) and masked_positions.numel():
        low, high = masked_positions.aminmax()
        if low < -1 or high >= x.shape[1]:
            raise IndexError(
                f"masked_positions has values from {low.item()} to {high.item()}, expected -1 (no token) or a position "
                f"below L = {x.shape[1]}"
            )
