# SPDX-License-Identifier: Apache-2.0
"""`boundary_mlp` in plain PyTorch: the whole concatenation at once, dead rows computed and thrown away."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def boundary_mlp(
    x: Tensor,
    masked_positions: Tensor,
    left_boundary: Tensor,
    right_boundary: Tensor,
    positions: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    *,
    eps: float = 1e-12,
    max_rows: int | None = None,
    token_rows: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """See `spanbert_ext.ops.boundary_mlp`; `max_rows` changes nothing here, where dead rows are computed too."""
    batch, _, hidden = x.shape
    inner, outer = weight1.shape[0], weight2.shape[0]
    assert masked_positions.shape == left_boundary.shape == right_boundary.shape
    assert masked_positions.dim() == 2 and masked_positions.shape[0] == batch
    assert weight1.shape == (inner, 2 * hidden + positions.shape[1])
    assert weight2.shape == (outer, inner)
    assert bias1.shape == norm1_weight.shape == norm1_bias.shape == (inner,)
    assert bias2.shape == norm2_weight.shape == norm2_bias.shape == (outer,)

    # Dead rows read the first token and the first position, where there is none a zero.
    x, positions = (F.pad(t, (0, 0, 0, 1)) if t.shape[-2] == 0 else t for t in (x, positions))
    live = left_boundary >= 0  # [B, K]
    slot = (masked_positions - left_boundary - 1).where(live, 0)  # [B, K]
    row = torch.arange(batch, device=x.device)[:, None]  # [B, 1]
    left = x[row, left_boundary.clamp_min(0)]  # [B, K, H]
    right = x[row, right_boundary.clamp_min(0)]  # [B, K, H]
    # What they read takes no part, so that a NaN in one cannot enter the gradients of the parameters.
    left, right = (side.where(live[..., None], 0) for side in (left, right))
    h = torch.cat([left, right, positions[slot]], dim=-1)  # [B, K, 2H+P]
    h = F.layer_norm(
        F.gelu(F.linear(h, weight1, bias1)), (inner,), norm1_weight, norm1_bias, eps
    )  # [B, K, E]
    y = F.layer_norm(
        F.gelu(F.linear(h, weight2, bias2)), (outer,), norm2_weight, norm2_bias, eps
    )  # [B, K, D]
    y = y.where(live[..., None], 0).to(x.dtype)
    if token_rows is None:
        return y

    assert token_rows.dim() == 1
    tokens = torch.cat([x.flatten(0, 1), x.new_zeros(1, hidden)])  # [B*L+1, H], a row of zeros for -1
    return y, tokens[token_rows]
