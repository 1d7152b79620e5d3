"""Which rows the two heads predict, what each weighs in the loss, and what came of it: without asking the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from spanbert_ext.ops._common import Impl, check_devices, require_kernels, use_reference


class HeadTargets(NamedTuple):
    """Rows for `vocab_ce`: first R of the MLM, then, with boundaries, B*K of the SBO."""

    token_rows: Tensor  # [R] int64, b*L + position of each MLM row, in order; -1 behind the last one
    ranks: Tensor  # [B, K] int64, the MLM row of each slot, or -1
    targets: Tensor  # [N] int64, N = R + B*K or R; negative where nothing is predicted
    row_weight: Tensor  # [N] float32 or float64, 0 there
    counts: Tensor  # [2] int64, rows with a target of the MLM and of the SBO


class HeadStatistics(NamedTuple):
    row_statistics: Tensor  # [B, 6] sums: MLM nll, rows, correct; SBO nll, rows, correct
    means: Tensor  # [4] mean MLM nll, mean SBO nll, MLM accuracy, SBO accuracy; 0 over no rows
    mlm_prediction: Tensor  # [B, K] int64, -1 where there is no target
    sbo_prediction: Tensor  # [B, K]


def head_targets(
    labels: Tensor,
    masked_positions: Tensor,
    left_boundary: Tensor | None = None,
    *,
    num_items: Tensor | None = None,
    num_sbo_items: Tensor | None = None,
    sbo_weight: float = 1.0,
    dtype: torch.dtype = torch.float32,
    max_rows: int | None = None,
    impl: Impl = "fused",
) -> HeadTargets:
    """Rows of both heads of a masked batch and their weights in `mean MLM + sbo_weight * mean SBO`.

    Args:
        labels: [B, L] int64 original ids, negative where there is no target.
        masked_positions: [B, K] int64, negative where there is none. One without a label is no row.
        left_boundary: [B, K] int64, negative where the token takes no part in the SBO. None: no SBO.
        num_items, num_sbo_items: one value of `dtype` each, the rows that each head's mean is over, in place of this
            batch's own. With `num_items` alone the SBO's mean is scaled by this batch's share of the MLM rows.
        sbo_weight: lambda.
        dtype: of the weights, float32 or float64.
        max_rows: a bound of the MLM rows, R = min(B*K, max_rows); None: B*K. Too small a bound makes all weights NaN
            on CUDA and raises on the CPU.
        impl: "fused" or "reference" (plain PyTorch).

    Raises:
        ValueError, TypeError, IndexError: naming the argument, what it was and what was expected. On CUDA a position
            beyond L makes a target that no vocabulary has, unless SPANBERT_EXT_DEBUG=1.
    """
    if use_reference(impl):
        from spanbert_ext import reference

        return reference.head_targets(
            labels,
            masked_positions,
            left_boundary,
            num_items=num_items,
            num_sbo_items=num_sbo_items,
            sbo_weight=sbo_weight,
            dtype=dtype,
            max_rows=max_rows,
        )
    require_kernels("head_targets", labels)
    check_devices(
        "head_targets",
        "labels",
        labels,
        masked_positions=masked_positions,
        left_boundary=left_boundary,
        num_items=num_items,
        num_sbo_items=num_sbo_items,
    )
    return HeadTargets(
        *torch.ops.spanbert_ext.head_targets(
            labels, masked_positions, left_boundary, num_items, num_sbo_items, sbo_weight, dtype, max_rows
        )
    )


def head_statistics(
    nll: Tensor, prediction: Tensor, targets: Tensor, ranks: Tensor, *, has_sbo: bool, impl: Impl = "fused"
) -> HeadStatistics:
    """What `vocab_ce` made of the rows of `head_targets`, by batch row and over the batch.

    Args:
        nll, prediction: [N] from `vocab_ce`.
        targets, ranks: [N], [B, K] from `head_targets`.
        has_sbo: whether the last B*K rows are the SBO's.
        impl: "fused" or "reference" (plain PyTorch).

    Raises:
        ValueError, TypeError: naming the argument, what it was and what was expected.
    """
    if use_reference(impl):
        from spanbert_ext import reference

        return reference.head_statistics(nll, prediction, targets, ranks, has_sbo=has_sbo)
    require_kernels("head_statistics", nll)
    check_devices("head_statistics", "ranks", ranks, nll=nll, prediction=prediction, targets=targets)
    return HeadStatistics(*torch.ops.spanbert_ext.head_statistics(nll, prediction, targets, ranks, has_sbo))


@torch.library.register_fake("spanbert_ext::head_targets")
def _head_targets_fake(
    labels: Tensor,
    masked_positions: Tensor,
    left_boundary: Tensor | None,
    num_items: Tensor | None,
    num_sbo_items: Tensor | None,
    sbo_weight: float,
    dtype: torch.dtype,
    max_rows: int | None,
) -> tuple[Tensor, ...]:
    total = masked_positions.shape[0] * masked_positions.shape[1]
    rows = total if max_rows is None else torch.sym_min(total, max_rows)
    all_rows = rows if left_boundary is None else rows + total
    return (
        labels.new_empty((rows,)),
        labels.new_empty(masked_positions.shape),
        labels.new_empty((all_rows,)),
        labels.new_empty((all_rows,), dtype=dtype),
        labels.new_empty((2,)),
    )


@torch.library.register_fake("spanbert_ext::head_statistics")
def _head_statistics_fake(
    nll: Tensor, prediction: Tensor, targets: Tensor, ranks: Tensor, has_sbo: bool
) -> tuple[Tensor, ...]:
    return (
        nll.new_empty((ranks.shape[0], 6)),
        nll.new_empty((4,)),
        ranks.new_empty(ranks.shape),
        ranks.new_empty(ranks.shape),
    )
