# SPDX-License-Identifier: Apache-2.0
"""Which rows the two heads predict, what each weighs in the loss, and what came of it: without asking the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spanbert_ext import reference
from spanbert_ext.ops import _head_targets_checks
from spanbert_ext.ops._autograd import by_name
from spanbert_ext.ops._common import (
    Impl,
    check_tensors,
    expect_one_device,
    flag,
    integer,
    may_read_values,
    real,
    require_kernels,
    shown,
    use_reference,
)
from spanbert_ext.reference.outputs import HeadStatistics, HeadTargets


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
    plain = use_reference(impl)
    check_tensors(
        "head_targets",
        {"labels": labels, "masked_positions": masked_positions},
        {"left_boundary": left_boundary, "num_items": num_items, "num_sbo_items": num_sbo_items},
    )
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"head_targets: dtype is {shown(dtype)}, expected torch.float32 or torch.float64")
    sbo_weight = real("head_targets: sbo_weight", sbo_weight)
    max_rows = None if max_rows is None else integer("head_targets: max_rows", max_rows)
    if plain:
        if not torch.compiler.is_compiling():
            _head_targets_checks.check_arguments(
                labels, masked_positions, left_boundary, num_items, num_sbo_items, dtype, max_rows
            )
        if may_read_values(labels):
            _head_targets_checks.check_values(labels, masked_positions, max_rows)
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
    require_kernels("head_targets", "labels", labels)
    # The counts take part in no gradient.
    num_items, num_sbo_items = (
        None if count is None else count.detach() for count in (num_items, num_sbo_items)
    )
    return HeadTargets(
        *_OPS.head_targets(
            labels, masked_positions, left_boundary, num_items, num_sbo_items, sbo_weight, dtype, max_rows
        )
    )


def head_statistics(
    nll: Tensor, prediction: Tensor, targets: Tensor, ranks: Tensor, *, has_sbo: bool, impl: Impl = "fused"
) -> HeadStatistics:
    """What `vocab_ce` found for the rows of `head_targets`, by batch row and over the batch.

    Args:
        nll, prediction: [N] from `vocab_ce`.
        targets, ranks: [N], [B, K] from `head_targets`.
        has_sbo: whether the last B*K rows are the SBO's.
        impl: "fused" or "reference" (plain PyTorch).

    Nothing that is returned carries a gradient.

    Raises:
        ValueError, TypeError: naming the argument, what it was and what was expected.
    """
    plain = use_reference(impl)
    check_tensors(
        "head_statistics", {"ranks": ranks, "nll": nll, "prediction": prediction, "targets": targets}
    )
    has_sbo = flag("head_statistics: has_sbo", has_sbo)
    if plain:
        if not torch.compiler.is_compiling():
            _head_targets_checks.check_statistics(nll, prediction, targets, ranks, has_sbo)
        return reference.head_statistics(nll, prediction, targets, ranks, has_sbo=has_sbo)
    require_kernels("head_statistics", "nll", nll)
    return HeadStatistics(*_OPS.head_statistics(nll.detach(), prediction, targets, ranks, has_sbo))


_OPS = torch.ops.spanbert_ext
_TARGETS_SCHEMA = _OPS.head_targets.default._schema


def count_tensor(count: Tensor | float | None, like: Tensor, dtype: torch.dtype) -> Tensor | None:
    """A count as `head_targets` takes it: on the device of `like`, without waiting for it."""
    if count is None:
        return None
    if isinstance(count, Tensor):
        if count.device.type != "cpu" or like.device.type != "cuda" or torch.compiler.is_compiling():
            return count.to(like.device, dtype)
        count = count.item()
    return torch.full((), count, dtype=dtype, device=like.device)  # filled there; a copy would synchronise


@torch.library.register_fake("spanbert_ext::head_targets")
def _head_targets_fake(*arguments: Any) -> tuple[Tensor, ...]:
    given = by_name(_TARGETS_SCHEMA, arguments)
    expect_one_device("head_targets", given)
    del given["sbo_weight"]
    _head_targets_checks.check_arguments(**given)
    labels, masked_positions, max_rows = (given[name] for name in ("labels", "masked_positions", "max_rows"))
    total = masked_positions.shape[0] * masked_positions.shape[1]
    rows = total if max_rows is None else torch.sym_min(total, max_rows)
    all_rows = rows if given["left_boundary"] is None else rows + total
    return (
        labels.new_empty((rows,)),  # token_rows
        labels.new_empty(masked_positions.shape),  # ranks
        labels.new_empty((all_rows,)),  # targets
        labels.new_empty((all_rows,), dtype=given["dtype"]),  # row_weight
        labels.new_empty((2,)),  # counts
    )


@torch.library.register_fake("spanbert_ext::head_statistics")
def _head_statistics_fake(
    nll: Tensor, prediction: Tensor, targets: Tensor, ranks: Tensor, has_sbo: bool
) -> tuple[Tensor, ...]:
    tensors = {"ranks": ranks, "nll": nll, "prediction": prediction, "targets": targets}
    expect_one_device("head_statistics", tensors)
    _head_targets_checks.check_statistics(nll, prediction, targets, ranks, has_sbo)
    return (
        nll.new_empty((ranks.shape[0], 6)),  # row_statistics
        nll.new_empty((4,)),  # means
        ranks.new_empty(ranks.shape),  # mlm_prediction
        ranks.new_empty(ranks.shape),  # sbo_prediction
    )
