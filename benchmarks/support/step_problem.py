# SPDX-License-Identifier: Apache-2.0
"""The work of every provider of bench_step.py: one BERT, batches of the same texts, and what a provider is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import BertConfig, DataCollatorForLanguageModeling

from spanbert_ext import DataCollatorForSpanMasking, SpanBertForPreTraining
from support.text import FIRST_WORD, Shape, make_tokenizer, sample_text

LAYERS = {32: 2, 768: 12, 1024: 24}  # by hidden size: tiny, base, large
TEXTS = 4  # batches visited in turn

Mode = Literal["eager", "layers", "model"]
MODES: tuple[Mode, ...] = ("eager", "layers", "model")


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
    # results are compared in eval(), without dropout: the loss is to be that of a training step there too
    options = {"evaluation_loss": "sum", "evaluation_logits": False}
    return SpanBertForPreTraining.from_config(config, attn_implementation="sdpa", **options).to(device)


Batch = dict[str, Any]
"""Tensors, and the plain values that DataCollatorForSpanMasking adds."""


class Masks:
    """Batches of the same texts as the two collators make them, on the device."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self.device = device
        self.padded = shape.ragged
        self.texts = [sample_text(shape, generator) for _ in range(TEXTS)]
        tokenizer = make_tokenizer(shape.vocab)
        self.span_collator = DataCollatorForSpanMasking(
            tokenizer, seed=1, pad_to_multiple_of=shape.length, position_slots=shape.position_slots
        )
        self.stock_collator = DataCollatorForLanguageModeling(
            tokenizer, mlm_probability=self.span_collator.masker.ratio
        )
        self.tokens = sum(int(mask.sum()) for _, mask in self.texts) / TEXTS  # a batch, without padding

    def _on_device(self, batch: Batch) -> Batch:
        return {
            name: x.to(self.device, non_blocking=True) if isinstance(x, Tensor) else x
            for name, x in batch.items()
        }

    def spans(self, step: int) -> Batch:
        """By DataCollatorForSpanMasking."""
        ids, mask = self.texts[step % TEXTS]
        self.span_collator.set_epoch(step)
        rows = [{"input_ids": row[:length]} for row, length in zip(ids, mask.sum(1).tolist(), strict=True)]
        return self._on_device(self.span_collator(rows))

    def tokens_by_stock(self, step: int) -> Batch:
        """By transformers' collator, on tensors."""
        ids, mask = self.texts[step % TEXTS]
        masked, labels = self.stock_collator.torch_mask_tokens(
            ids.clone(), special_tokens_mask=ids < FIRST_WORD
        )
        return self._on_device({"input_ids": masked, "attention_mask": mask, "labels": labels})


@dataclass(frozen=True)
class Provider:
    """`loss(masks(step))` is timed with its backward and the optimizer, and without `masks` where a worker makes them.

    `keys`: of the batch, what the module takes; None: all that the collator gives. `without`: but not these.
    `varying`: sizes differ from batch to batch, so that a compiler should not take them for constants.
    """

    module: nn.Module
    masks: Callable[[int], Batch]
    keys: tuple[str, ...] | None
    without: tuple[str, ...] = ()
    varying: bool = False
    skips_rows: bool = False  # in the encoder's last layer, which is then left out where layers are compiled

    def loss(self, batch: Batch) -> Tensor:
        names = [name for name in batch if self.keys is None or name in self.keys]
        found = self.module(**{name: batch[name] for name in names if name not in self.without})
        return found if isinstance(found, Tensor) else found.loss


MakeProvider = Callable[[str, Any, Masks], Provider]
"""The provider of that name around the modules of a model."""


def twin(model: Any) -> Any:
    """A copy of the modules around the same parameters and buffers."""
    shared = {id(x): x for x in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def compile_provider(provider: Provider, mode: Mode, backend: str) -> Provider:
    """Prepares the provider, which must be alone with its modules, for `mode`; compiles when it is first run."""
    if mode == "eager":
        return provider
    dynamic = None if provider.varying else False
    if mode == "model":
        provider.module.compile(dynamic=dynamic, backend=backend)
        return provider
    layers = provider.module.bert.encoder.layer
    for layer in layers[:-1] if provider.skips_rows else layers:
        layer.compile(dynamic=False, backend=backend)
    return provider
