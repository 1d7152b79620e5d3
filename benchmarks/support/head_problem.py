# SPDX-License-Identifier: Apache-2.0
"""The work that every provider of bench_sbo.py does: fresh batches, the heads' parameters and the float64 oracle."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.text import FIRST_WORD, IGNORED, MASK, PAD, Shape, sample_text, token_kinds


@dataclass(frozen=True)
class Batch:
    """One batch as a collator makes it.

    The first six go to the fused loss. The others hold the same targets for the eager providers, ready made, so
    that none of them searches or synchronises. Rows index hidden states as [B*L, H].
    """

    hidden: Tensor  # [B, L, H], float32
    labels: Tensor  # [B, L], IGNORED where nothing is masked
    masked_positions: Tensor  # [B, K]
    left_boundary: Tensor  # [B, K]
    right_boundary: Tensor  # [B, K]
    max_rows: int | None  # where the collator gives one: rows are then much fewer than B * K

    mlm_rows: Tensor  # [N_mlm]
    mlm_targets: Tensor  # [N_mlm]
    sbo_left_rows: Tensor  # [N_sbo]
    sbo_right_rows: Tensor  # [N_sbo]
    sbo_slots: Tensor  # [N_sbo]
    sbo_targets: Tensor  # [N_sbo]

    pairs: Tensor  # [B, spans, 2] rows of both boundaries, 0 where a batch row has fewer spans
    pair_targets: Tensor  # [B, spans, S], IGNORED where there is none

    def to(self, device: torch.device) -> Batch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**{name: x.to(device) if isinstance(x, Tensor) else x for name, x in values.items()})


def bound_of_rows(indices: tuple[Tensor, ...], length: int) -> int | None:
    """The bound that the collator gives, of indices [B, K].

    None of an older package without its module: device_check.sh measures one on full rows, which have no bound.
    """
    try:
        from spanbert_ext.masking.row_bounds import row_bounds
    except ImportError:
        return None
    bound = row_bounds(indices, length).get("max_rows")
    return None if bound is None else int(bound)


def make_batch(shape: Shape, seed: int, device: torch.device) -> Batch:
    """Fresh hidden states, ids and span masks; the same for the same seed."""
    from spanbert_ext.ops import span_mask

    generator = torch.Generator().manual_seed(seed)
    ids, attention_mask = sample_text(shape, generator)
    masks = span_mask(
        ids,
        token_kinds(shape.vocab),
        torch.arange(FIRST_WORD, shape.vocab),
        seed=torch.tensor(seed),
        epoch=torch.tensor(0),
        attention_mask=attention_mask,
        mask_token_id=MASK,
        pad_token_id=PAD,
        position_slots=shape.position_slots,
    )
    positions, left, right = masks.masked_positions, masks.left_boundary, masks.right_boundary  # [B, K]
    row_begin = torch.arange(shape.rows)[:, None] * shape.length  # [B, 1]
    flat_ids = ids.flatten()
    mlm_rows = (positions + row_begin)[positions >= 0]

    live = left >= 0  # [B, K]
    slots = positions - left - 1
    sbo_targets = flat_ids[(positions + row_begin)[live]]
    span = ((live & (slots == 0)).cumsum(1) - 1)[live]  # its number within the batch row
    batch_row = live.nonzero()[:, 0]
    spans = int(span.max()) + 1 if len(span) else 1
    left_rows, right_rows = (left + row_begin)[live], (right + row_begin)[live]
    pairs = torch.zeros(shape.rows, spans, 2, dtype=torch.int64)
    pairs[batch_row, span] = torch.stack([left_rows, right_rows], 1)
    pair_targets = torch.full((shape.rows, spans, shape.position_slots), IGNORED)
    pair_targets[batch_row, span, slots[live]] = sbo_targets

    device_generator = torch.Generator(device).manual_seed(seed)
    hidden = torch.randn(shape.rows, shape.length, shape.hidden, generator=device_generator, device=device)
    return Batch(
        hidden=hidden,
        labels=masks.labels,
        masked_positions=positions,
        left_boundary=left,
        right_boundary=right,
        max_rows=bound_of_rows((positions, left, right), shape.length),
        mlm_rows=mlm_rows,
        mlm_targets=flat_ids[mlm_rows],
        sbo_left_rows=left_rows,
        sbo_right_rows=right_rows,
        sbo_slots=slots[live],
        sbo_targets=sbo_targets,
        pairs=pairs,
        pair_targets=pair_targets,
    ).to(device)


class BoundaryHead(nn.Module):
    """The SBO's two layers over [left; right; position] and its own vocabulary bias, in plain PyTorch."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.hidden
        self.position_embeddings = nn.Embedding(shape.position_slots, shape.position_dim)
        self.dense1 = nn.Linear(2 * width + shape.position_dim, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.dense2 = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(shape.vocab))

    def forward(self, boundaries: Tensor) -> Tensor:  # [..., 2H+P] -> [..., D]
        inner = self.norm1(F.gelu(self.dense1(boundaries)))
        return self.norm2(F.gelu(self.dense2(inner)))


class Heads(nn.Module):
    """All parameters of both heads; every provider trains these very tensors."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        super().__init__()
        width = shape.hidden
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=1e-12))
        self.sbo = BoundaryHead(shape)
        self.decoder_weight = nn.Parameter(torch.empty(shape.vocab, width))
        self.mlm_bias = nn.Parameter(torch.zeros(shape.vocab))
        generator = torch.Generator().manual_seed(seed)
        with (
            torch.no_grad()
        ):  # no zeros and no ones: a provider that drops a bias or a norm's weight must show
            for name, parameter in self.named_parameters():
                norm_weight = parameter.dim() == 1 and name.endswith("weight")
                scale = 1 / math.sqrt(parameter.shape[-1]) if parameter.dim() == 2 else 0.1
                parameter.copy_(
                    torch.randn(parameter.shape, generator=generator) * scale + float(norm_weight)
                )


def gradients(heads: Heads, hidden: Tensor) -> dict[str, Tensor]:
    """Gradients of the hidden states and of every parameter; zeros where there is none."""
    tensors = {"hidden": hidden, **dict(heads.named_parameters())}
    return {name: torch.zeros_like(t) if t.grad is None else t.grad for name, t in tensors.items()}


def oracle(heads: Heads, batch: Batch, chunk: int = 2048) -> tuple[float, dict[str, Tensor]]:
    """Loss and all gradients in float64, decoded `chunk` rows at a time so that it fits. `heads`: float64."""
    hidden = batch.hidden.double().requires_grad_()
    flat = hidden.flatten(0, 1)  # [B*L, H]
    mlm = heads.transform(flat[batch.mlm_rows])  # [N_mlm, D]
    boundaries = [
        flat[batch.sbo_left_rows],
        flat[batch.sbo_right_rows],
        heads.sbo.position_embeddings(batch.sbo_slots),
    ]
    sbo = heads.sbo(torch.cat(boundaries, dim=-1))  # [N_sbo, D]
    total = 0.0
    for rows, bias, targets in (
        (mlm, heads.mlm_bias, batch.mlm_targets),
        (sbo, heads.sbo.bias, batch.sbo_targets),
    ):
        leaf = rows.detach().requires_grad_()
        for part, part_targets in zip(leaf.split(chunk), targets.split(chunk), strict=True):
            logits = part @ heads.decoder_weight.T + bias  # [chunk, V]
            chosen = logits.gather(1, part_targets[:, None])[:, 0]
            loss = (logits.logsumexp(dim=1) - chosen).sum() / len(targets)
            loss.backward()
            total += loss.item()
        if len(targets):
            rows.backward(
                leaf.grad, retain_graph=True
            )  # both heads hang on the same view of the hidden states
    return total, gradients(heads, hidden)
