"""The contestants of bench_step.py: the ways to train one and the same BERT.

All of them share the parameters of one SpanBertForPreTraining and one AdamW, so that none starts better and
none has more alive than another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from text import FIRST_WORD, Shape, make_tokenizer, sample_text
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling

from spanbert_ext import SpanBertForPreTraining, SpanMasker

IGNORED = -100
LAYERS = {32: 2, 768: 12, 1024: 24}  # by hidden size: tiny, base, large
TEXTS = 4  # batches visited in turn


def make_model(shape: Shape, layers: int, device: torch.device) -> nn.Module:
    """A SpanBERT with random weights, the same for the same shape."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(2, shape.hidden // 64),
        intermediate_size=4 * shape.hidden,
        max_position_embeddings=max(512, shape.length),
    )
    return SpanBertForPreTraining.from_config(config, attn_implementation="sdpa").to(device)


class MaskedRowsOnly(nn.Module):
    """A trainer that decodes masked rows only, in plain PyTorch; rows without a target are ignored, not cut."""

    def __init__(self, model: Any, with_sbo: bool) -> None:
        super().__init__()
        self.bert, self.cls, self.sbo = model.bert, model.cls, model.sbo
        self.with_sbo = with_sbo

    def forward(
        self,
        input_ids: Tensor,  # [B, L], as the next two
        attention_mask: Tensor,
        labels: Tensor,
        masked_positions: Tensor,  # [B, K], as the next two
        left_boundary: Tensor,
        right_boundary: Tensor,
    ) -> Tensor:
        x = self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]  # [B, L, H]
        flat = x.flatten(0, 1)  # [B*L, H]
        row_begin = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]  # [B, 1]

        def rows(positions: Tensor) -> Tensor:  # [B, K] -> [B*K, H]
            return flat[(positions.clamp_min(0) + row_begin).flatten()]

        targets = labels.gather(1, masked_positions.clamp_min(0))
        targets = targets.masked_fill(masked_positions < 0, IGNORED)  # [B, K]
        loss = F.cross_entropy(self.cls(rows(masked_positions)), targets.flatten())
        if self.with_sbo:
            slots = (masked_positions - left_boundary - 1).clamp(
                0, self.sbo.position_embeddings.num_embeddings - 1
            )
            boundaries = [
                rows(left_boundary),
                rows(right_boundary),
                self.sbo.position_embeddings(slots.flatten()),
            ]
            inner = self.sbo.norm1(F.gelu(self.sbo.dense1(torch.cat(boundaries, dim=1))))
            outer = self.sbo.norm2(F.gelu(self.sbo.dense2(inner)))  # [B*K, H]
            logits = F.linear(outer, self.cls.predictions.decoder.weight, self.sbo.bias)  # [B*K, V]
            loss = loss + F.cross_entropy(logits, targets.masked_fill(left_boundary < 0, IGNORED).flatten())
        return loss


def stock_model(model: Any) -> BertForMaskedLM:
    """transformers' class around the modules of `model`."""
    with torch.device("meta"):
        stock = BertForMaskedLM(model.config)
    stock.bert, stock.cls = model.bert, model.cls
    return stock


Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Provider:
    """`loss(masks(step))` is timed with its backward and the optimizer; without `masks` if a worker makes them."""

    module: nn.Module
    masks: Callable[[int], Batch]
    keys: tuple[str, ...]  # of the batch, what the module takes
    in_worker: bool = False

    def loss(self, batch: Batch) -> Tensor:
        found = self.module(**{key: batch[key] for key in self.keys})
        return found if isinstance(found, Tensor) else found.loss

    def compiled(self) -> Provider:
        return replace(self, module=torch.compile(self.module))


MLM_KEYS = ("input_ids", "attention_mask", "labels")
SPAN_KEYS = (*MLM_KEYS, "masked_positions", "left_boundary", "right_boundary")


class Masks:
    """Masked batches of the same texts, by SpanMasker on the device or by transformers' collator on the CPU."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self.device = device
        self.texts = [sample_text(shape, generator) for _ in range(TEXTS)]
        self.on_device = [(ids.to(device), mask.to(device)) for ids, mask in self.texts]
        tokenizer = make_tokenizer(shape.vocab)
        self.masker = SpanMasker.from_tokenizer(tokenizer, position_slots=shape.position_slots)
        self.collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=self.masker.ratio)
        self.tokens = sum(int(mask.sum()) for _, mask in self.texts) / TEXTS  # a batch, without padding

    def spans(self, step: int) -> Batch:
        ids, attention_mask = self.on_device[step % TEXTS]
        return {
            "attention_mask": attention_mask,
            **self.masker(ids, attention_mask, seed=1, epoch=step).as_dict(),
        }

    def tokens_by_collator(self, step: int) -> Batch:
        ids, _ = self.texts[step % TEXTS]
        masked, labels = self.collator.torch_mask_tokens(ids.clone(), special_tokens_mask=ids < FIRST_WORD)
        return {
            "input_ids": masked.to(self.device, non_blocking=True),
            "attention_mask": self.on_device[step % TEXTS][1],
            "labels": labels.to(self.device, non_blocking=True),
        }


def make_providers(model: Any, masks: Masks) -> dict[str, Provider]:
    """Every contestant around `model`'s parameters."""
    on_gpu = masks.device.type == "cuda"
    return {
        "spanbert": Provider(model, masks.spans, SPAN_KEYS),
        "spanbert_no_sbo": Provider(model, masks.spans, MLM_KEYS),
        "stock_mlm": Provider(stock_model(model), masks.tokens_by_collator, MLM_KEYS, in_worker=on_gpu),
        "masked_only": Provider(MaskedRowsOnly(model, with_sbo=True), masks.spans, SPAN_KEYS),
        "masked_only_no_sbo": Provider(MaskedRowsOnly(model, with_sbo=False), masks.spans, SPAN_KEYS),
    }


NAMES = ("spanbert", "spanbert_no_sbo", "stock_mlm", "masked_only", "masked_only_no_sbo")
SAME_LOSS = (
    ("masked_only", "spanbert"),
    ("stock_mlm", "spanbert_no_sbo"),
    ("stock_mlm", "masked_only_no_sbo"),
)
"""Pairs that compute the same thing on the same masks."""
