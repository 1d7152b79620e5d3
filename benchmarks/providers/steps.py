# SPDX-License-Identifier: Apache-2.0
"""The contestants of bench_step.py: the ways to train one and the same BERT.

All of them share the parameters of one SpanBertForPreTraining and one AdamW, so that none starts better and
none has more alive than another. Modules are each one's own, so that what is compiled for one is not for another.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertForMaskedLM

from support.step_problem import Masks, Provider
from support.text import IGNORED


class MaskedRowsOnly(nn.Module):
    """A trainer that decodes masked rows only, in plain PyTorch.

    With index tensors K rows of each text are decoded and those without a target are ignored; `compact` leaves these
    out, which waits for the device. With labels alone the rows are found in them, which waits too.
    """

    def __init__(self, model: Any, with_sbo: bool, compact: bool) -> None:
        super().__init__()
        self.bert, self.cls, self.sbo = model.bert, model.cls, model.sbo
        self.with_sbo, self.compact = with_sbo, compact

    def forward(
        self,
        input_ids: Tensor,  # [B, L], as the next two
        labels: Tensor,
        attention_mask: Tensor | None = None,
        masked_positions: Tensor | None = None,  # [B, K], as the next two
        left_boundary: Tensor | None = None,
        right_boundary: Tensor | None = None,
    ) -> Tensor:
        x = self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]  # [B, L, H]
        flat = x.flatten(0, 1)  # [B*L, H]
        if masked_positions is None:
            rows = (labels.flatten() >= 0).nonzero().flatten()  # [N]
            return F.cross_entropy(self.cls(flat[rows]), labels.flatten()[rows])

        begin = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]  # [B, 1]
        targets = labels.gather(1, masked_positions.clamp_min(0))
        targets = targets.masked_fill(masked_positions < 0, IGNORED)  # [B, K]
        loss = self._mlm(flat, masked_positions.clamp_min(0) + begin, targets)
        if not self.with_sbo:
            return loss
        assert left_boundary is not None and right_boundary is not None
        slots = masked_positions - left_boundary - 1
        left, right = left_boundary.clamp_min(0) + begin, right_boundary.clamp_min(0) + begin
        return loss + self._sbo(flat, left, right, slots, targets.masked_fill(left_boundary < 0, IGNORED))

    def _kept(self, targets: Tensor, *indices: Tensor) -> tuple[Tensor, ...]:
        """Targets and indices as vectors, compact or not."""
        flat = tuple(x.flatten() for x in (targets, *indices))
        if not self.compact:
            return flat
        live = (flat[0] != IGNORED).nonzero().flatten()
        return tuple(x[live] for x in flat)

    def _mlm(self, flat: Tensor, rows: Tensor, targets: Tensor) -> Tensor:
        targets, rows = self._kept(targets, rows)
        return F.cross_entropy(self.cls(flat[rows]), targets)

    def _sbo(self, flat: Tensor, left: Tensor, right: Tensor, slots: Tensor, targets: Tensor) -> Tensor:
        targets, left, right, slots = self._kept(targets, left, right, slots)
        positions = self.sbo.position_embeddings
        boundaries = [flat[left], flat[right], positions(slots.clamp(0, positions.num_embeddings - 1))]
        inner = self.sbo.norm1(F.gelu(self.sbo.dense1(torch.cat(boundaries, dim=1))))
        outer = self.sbo.norm2(F.gelu(self.sbo.dense2(inner)))  # [N, H]
        logits = F.linear(outer, self.cls.predictions.decoder.weight, self.sbo.bias)  # [N, V]
        return F.cross_entropy(logits, targets)


def stock_model(model: Any) -> BertForMaskedLM:
    """transformers' class around the modules of `model`."""
    with torch.device("meta"):
        stock = BertForMaskedLM(model.config)
    stock.bert, stock.cls = model.bert, model.cls
    return stock


BOUNDARIES = ("left_boundary", "right_boundary")
TENSORS = ("input_ids", "attention_mask", "labels", "masked_positions", *BOUNDARIES)
NAMES = (  # in the order in which they are compiled, while there is time
    "spanbert",
    "stock_mlm",
    "masked_only",
    "spanbert_no_sbo",
    "masked_only_no_sbo",
    "spanbert_labels",
    "masked_only_labels",
    "stock_mlm_as_shipped",
)
SAME_LOSS = (
    ("masked_only", "spanbert"),
    ("stock_mlm", "spanbert_no_sbo"),
    ("stock_mlm", "spanbert_labels"),
    ("stock_mlm", "stock_mlm_as_shipped"),
    ("stock_mlm", "masked_only_no_sbo"),
    ("stock_mlm", "masked_only_labels"),
)
"""Pairs that compute the same thing on the same masks."""


def make_provider(name: str, model: Any, masks: Masks) -> Provider:
    """The contestant around `model`'s modules.

    A mask of ones has to be read, on a GPU by a wait, to find that nothing is padded: `spanbert` and `spanbert_no_sbo`
    pass the collator's `all_text` on instead, the others leave the mask out. Only `stock_mlm_as_shipped` keeps it, as
    transformers' collator gives it.

    Two more than NAMES are for tune_cuda.py: `spanbert_tensors` gets tensors alone, the mask of ones among them, and
    `spanbert_without_mask` everything but the mask.
    """
    mlm_keys = ("input_ids", "labels", *(["attention_mask"] if masks.padded else []))
    span_keys = (*mlm_keys, "masked_positions", *BOUNDARIES)
    compact = masks.padded  # the rows of full texts have targets in every entry
    match name:
        case "spanbert":
            return Provider(model, masks.spans, None, varying=compact, skips_rows=True)
        case "spanbert_no_sbo":
            return Provider(model, masks.spans, None, BOUNDARIES, varying=compact, skips_rows=True)
        case "spanbert_tensors":
            return Provider(model, masks.spans, TENSORS, skips_rows=True)
        case "spanbert_without_mask":
            return Provider(model, masks.spans, None, ("attention_mask",), skips_rows=True)
        case "spanbert_labels":
            return Provider(model, masks.tokens_by_stock, mlm_keys, skips_rows=True)
        case "stock_mlm":
            return Provider(stock_model(model), masks.tokens_by_stock, mlm_keys)
        case "stock_mlm_as_shipped":
            return Provider(
                stock_model(model), masks.tokens_by_stock, ("input_ids", "attention_mask", "labels")
            )
        case "masked_only":
            return Provider(MaskedRowsOnly(model, True, compact), masks.spans, span_keys, varying=compact)
        case "masked_only_no_sbo":
            return Provider(
                MaskedRowsOnly(model, False, compact), masks.spans, span_keys, BOUNDARIES, varying=compact
            )
        case "masked_only_labels":
            return Provider(
                MaskedRowsOnly(model, False, False), masks.tokens_by_stock, mlm_keys, varying=True
            )
    raise ValueError(f"no provider {name!r}; there are {', '.join(NAMES)}")
