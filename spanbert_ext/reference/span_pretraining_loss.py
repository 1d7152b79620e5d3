# SPDX-License-Identifier: Apache-2.0
"""`span_pretraining_loss` in plain PyTorch: both heads' rows, decoded by the reference operators."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from spanbert_ext.reference.head_targets import head_statistics, head_targets
from spanbert_ext.reference.outputs import SpanPretrainingOutput
from spanbert_ext.reference.vocab_ce import vocab_ce


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
) -> SpanPretrainingOutput:
    """See `spanbert_ext.ops.span_pretraining_loss`; `boundary_rows` is called with impl="reference"."""
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    has_sbo = left_boundary is not None

    def as_count(count: Tensor | float | None) -> Tensor | None:
        return None if count is None else torch.as_tensor(count, dtype=acc, device=x.device)

    heads = head_targets(
        labels,
        masked_positions,
        left_boundary,
        num_items=as_count(num_items_in_batch),
        num_sbo_items=as_count(num_sbo_items),
        dtype=acc,
        max_rows=max_rows,
    )
    tokens = x.flatten(0, 1)  # [B*L, H]
    read = heads.token_rows.clamp_min(0)  # [R]
    h = transform(tokens[read][None])[0]  # [R, D]
    row_weight, first_rows, biases = heads.row_weight, [0], None if bias is None else bias[None]
    if has_sbo:
        assert boundary_rows is not None
        options = {} if max_rows is None else {"max_rows": max_rows}
        if getattr(boundary_rows, "gives_token_rows", False):
            options["token_rows"] = heads.token_rows
        h_sbo = boundary_rows(x, masked_positions, left_boundary, right_boundary, impl="reference", **options)
        h_sbo = h_sbo[0] if "token_rows" in options else h_sbo  # [B, K, D]
        first_rows = [0, len(h)]
        h = torch.cat([h, h_sbo.flatten(0, 1).to(h.dtype)])  # [R + B*K, D]
        row_weight = torch.cat([row_weight[: len(read)], sbo_weight * row_weight[len(read) :]]).to(acc)
        if bias is not None or sbo_bias is not None:
            zeros = weight.new_zeros(len(weight))
            biases = torch.stack([zeros if b is None else b for b in (bias, sbo_bias)])  # [2, V]
    loss, nll, prediction = vocab_ce(
        h,
        weight,
        biases,
        heads.targets,
        row_weight,
        first_rows=first_rows,
        label_smoothing=label_smoothing,
    )
    found = head_statistics(nll, prediction, heads.targets, heads.ranks, has_sbo=has_sbo)
    return SpanPretrainingOutput.of(loss, heads.counts, found)
