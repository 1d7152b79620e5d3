"""The SpanBERT loss over encoder outputs: both heads' rows, decoded once (paper sections 2.2 and 2.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from spanbert_ext.ops._common import Impl, accumulation_dtype, compute_dtype, may_read_values
from spanbert_ext.ops.vocab_ce import vocab_ce

IGNORED = -100  # the label of a position without a target, as in torch and transformers


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
    sbo_weight: float = 1.0,
    num_items_in_batch: Tensor | int | None = None,
    num_sbo_items: Tensor | int | None = None,
    label_smoothing: float = 0.0,
    max_rows: int | None = None,
    impl: Impl = "fused",
) -> SpanPretrainingOutput:
    """`mean MLM loss + sbo_weight * mean SBO loss` of a masked batch; zero rows give a zero loss, never NaN.

    Args:
        x: [B, L, H] encoder outputs.
        labels: [B, L] int64 original ids; IGNORED (any negative) where there is no target.
        masked_positions: [B, K] int64, the positions with a target, padded with -1.
        left_boundary, right_boundary: [B, K] int64, the positions s-1 and e+1 around each masked token's span, -1
            where the token takes no part in SBO. None: MLM alone.
        transform: the model's own MLM transform, [B, K, H] -> [B, K, D]; its modules are not rewritten.
        weight, bias: decoder matrix [V, D] and MLM bias [V] or None.
        boundary_rows: the SBO representation, called as
            `boundary_rows(x, masked_positions, left_boundary, right_boundary, impl=impl)` -> [B, K, D], with
            `max_rows` too where it is given; a `SpanBoundaryHead` or a closure over `ops.boundary_mlp`. Needed with
            boundaries.
        sbo_bias: [V], SBO's own vocabulary bias (None: zeros where the MLM has a bias).
        sbo_weight: lambda, 1 in the paper.
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
    batch, slots = masked_positions.shape
    acc = accumulation_dtype(compute_dtype("span_pretraining_loss", x, {}))

    masked = masked_positions >= 0
    position = masked_positions.clamp_min(0)  # [B, K]
    mlm_targets = labels.gather(1, position).where(masked, IGNORED)  # [B, K]
    mlm_live = mlm_targets >= 0
    h = transform(_rows_at(x, position)).flatten(0, 1)  # [B*K, D]

    if left_boundary is None:
        sbo_live = torch.zeros_like(mlm_live)
        targets = mlm_targets.flatten()
        live = mlm_live.flatten()
        first_rows = [0]
        biases = None if bias is None else bias[None]
    else:
        assert boundary_rows is not None and right_boundary is not None  # _check
        sbo_live = mlm_live & (left_boundary >= 0)
        bound = {} if max_rows is None else {"max_rows": max_rows}
        h_sbo = boundary_rows(x, masked_positions, left_boundary, right_boundary, impl=impl, **bound)
        h_sbo = h_sbo.flatten(0, 1)  # [B*K, D]
        h = torch.cat([h, h_sbo.to(h.dtype)])  # [2*B*K, D]
        targets = torch.cat([mlm_targets.flatten(), mlm_targets.where(sbo_live, IGNORED).flatten()])
        live = torch.cat([mlm_live.flatten(), sbo_live.flatten()])
        first_rows = [0, batch * slots]
        biases = _stack_biases(bias, sbo_bias, weight)
    heads = len(first_rows)

    mlm_count, sbo_count = mlm_live.sum(), sbo_live.sum()
    mlm_row, sbo_row = _row_weights(mlm_count, sbo_count, num_items_in_batch, num_sbo_items, sbo_weight, acc)
    head_weight = torch.stack([mlm_row, sbo_row][:heads])
    row_weight = head_weight[:, None].expand(heads, batch * slots).flatten() * live  # [N]
    loss, nll, prediction = vocab_ce(
        h,
        weight,
        biases,
        targets,
        row_weight,
        first_rows=first_rows,
        label_smoothing=label_smoothing,
        max_rows=None if max_rows is None else heads * max_rows,
        impl=impl,
    )

    correct = (prediction == targets) & live
    sums = torch.stack([t.to(acc).reshape(heads, batch, slots).sum(2) for t in (nll, live, correct)], dim=2)
    predictions = prediction.reshape(heads, batch, slots)
    if heads == 1:  # SBO has no rows
        sums = F.pad(sums, (0, 0, 0, 0, 0, 1))
        predictions = F.pad(predictions, (0, 0, 0, 0, 0, 1), value=-1)
    row_statistics = sums.transpose(0, 1).reshape(batch, 6)
    total = row_statistics.sum(0)
    return SpanPretrainingOutput(
        loss,
        mlm_loss=total[0] / total[1].clamp_min(1),
        sbo_loss=total[3] / total[4].clamp_min(1),
        mlm_count=mlm_count,
        sbo_count=sbo_count,
        mlm_accuracy=total[2] / total[1].clamp_min(1),
        sbo_accuracy=total[5] / total[4].clamp_min(1),
        row_statistics=row_statistics,
        mlm_prediction=predictions[0],
        sbo_prediction=predictions[1],
    )


def _rows_at(x: Tensor, position: Tensor) -> Tensor:
    """x[b, position[b, k]]: [B, L, H], [B, K] -> [B, K, H]."""
    batch, length, width = x.shape
    first = torch.arange(batch, device=x.device)[:, None] * length
    rows = x.reshape(-1, width).index_select(0, (first + position).flatten())
    return rows.reshape(*position.shape, width)


def _stack_biases(bias: Tensor | None, sbo_bias: Tensor | None, weight: Tensor) -> Tensor | None:
    """[2, V] or None; a head without a bias gets zeros beside one that has it."""
    if bias is None and sbo_bias is None:
        return None
    zeros = weight.new_zeros(weight.shape[0])
    return torch.stack([zeros if b is None else b for b in (bias, sbo_bias)])


def _row_weights(
    mlm_count: Tensor,
    sbo_count: Tensor,
    num_items_in_batch: Tensor | int | None,
    num_sbo_items: Tensor | int | None,
    sbo_weight: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """The weight of one MLM row and of one SBO row, 0-dim, made on the device: no synchronisation."""

    def reciprocal(count: Tensor | int) -> Tensor:
        if not isinstance(count, Tensor):  # filled on the device; a copy from the host would synchronise
            count = torch.full((), count, dtype=dtype, device=mlm_count.device)
        return count.to(mlm_count.device, dtype).clamp_min(1).reciprocal()

    mlm_row = reciprocal(mlm_count if num_items_in_batch is None else num_items_in_batch)
    if num_sbo_items is not None:
        sbo_row = reciprocal(num_sbo_items)
    elif num_items_in_batch is not None:
        sbo_row = mlm_count.to(dtype) * mlm_row * reciprocal(sbo_count)
    else:
        sbo_row = reciprocal(sbo_count)
    return mlm_row, sbo_weight * sbo_row


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
