# SPDX-License-Identifier: Apache-2.0
"""`head_targets` and `head_statistics` in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

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
) -> HeadTargets:
    """See `spanbert_ext.ops.head_targets`."""
    batch, width = masked_positions.shape
    length, total = labels.shape[1], batch * width
    assert labels.shape[0] == batch
    assert left_boundary is None or left_boundary.shape == masked_positions.shape
    rows = total if max_rows is None else min(total, max_rows)

    first = torch.arange(batch, device=labels.device)[:, None] * length  # [B, 1]
    token = (first + masked_positions.clamp_min(0)).flatten()  # [B*K]
    ids = F.pad(labels.flatten(), (0, 1), value=-1)  # there is a token to read where L is 0
    target = ids[token].where(masked_positions.flatten() >= 0, -1)
    live = target >= 0
    count = live.sum()
    order = live.int().argsort(descending=True, stable=True)[
        :rows
    ]  # live entries first, live and dead ones in order
    ranks = (live.cumsum(0) - 1).where(live, -1).reshape(batch, width)
    kept = live[order]
    targets = [target[order].where(kept, -1)]

    sbo_live = torch.zeros_like(live) if left_boundary is None else live & (left_boundary.flatten() >= 0)
    sbo_count = sbo_live.sum()

    def reciprocal(n: Tensor) -> Tensor:
        return n.detach().reshape(()).to(dtype).clamp_min(1).reciprocal()

    mlm_weight = reciprocal(count if num_items is None else num_items)
    sbo_share = reciprocal(sbo_count if num_sbo_items is None else num_sbo_items)
    if num_items is not None and num_sbo_items is None:
        sbo_share = sbo_share * count.to(dtype) * mlm_weight
    unless_overflown = torch.zeros((), dtype=dtype, device=labels.device).masked_fill(
        count > rows, float("nan")
    )
    weights = [(mlm_weight + unless_overflown).where(kept, 0)]
    if left_boundary is not None:
        targets.append(target.where(sbo_live, -1))
        weights.append((sbo_weight * sbo_share + unless_overflown).where(sbo_live, 0))
    return HeadTargets(
        token[order].where(kept, -1),
        ranks,
        torch.cat(targets),
        torch.cat(weights).to(dtype),
        torch.stack([count, sbo_count]),
    )


def head_statistics(
    nll: Tensor, prediction: Tensor, targets: Tensor, ranks: Tensor, *, has_sbo: bool
) -> HeadStatistics:
    """See `spanbert_ext.ops.head_statistics`."""
    nll = nll.detach()
    rows = len(targets) - (ranks.numel() if has_sbo else 0)
    has_rank = (ranks >= 0) & (ranks < rows)
    # One row more, for entries that have none.
    at = ranks.where(has_rank, rows)  # [B, K]

    def by_entry(values: Tensor, none: int) -> list[Tensor]:
        heads = [F.pad(values[:rows], (0, 1), value=none)[at]]
        heads.append(values[rows:].reshape(ranks.shape) if has_sbo else torch.full_like(heads[0], none))
        return heads

    predictions = by_entry(prediction, -1)
    columns = []
    for loss, predicted, target in zip(by_entry(nll, 0), predictions, by_entry(targets, -1), strict=True):
        live = target >= 0
        columns += [loss.where(live, 0).sum(1), live.sum(1), (live & (predicted == target)).sum(1)]
    statistics = torch.stack([column.to(nll.dtype) for column in columns], dim=1)  # [B, 6]
    total = statistics.sum(0)
    counts = total[[1, 4]].clamp_min(1)
    means = torch.cat([total[[0, 3]] / counts, total[[2, 5]] / counts])
    return HeadStatistics(statistics, means, *predictions)
