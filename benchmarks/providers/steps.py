"""The contestants of bench_step.py: the ways to train one and the same BERT.

All of them share the parameters of one SpanBertForPreTraining and one AdamW, so that none starts better and
none has more alive than another. Modules are each one's own, so that what is compiled for one is not for another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling

from spanbert_ext import DataCollatorForSpanMasking, SpanBertForPreTraining
from support.text import FIRST_WORD, Shape, make_tokenizer, sample_text

IGNORED = -100
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
    return SpanBertForPreTraining.from_config(config, attn_implementation="sdpa").to(device)


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


BOUNDARIES = ("left_boundary", "right_boundary")
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

    None has the attention mask of a batch without padding, which each would have to read to find that out:
    `spanbert` and `spanbert_no_sbo` hand on the collator's word for it, the others leave the mask away. Only
    `stock_mlm_as_shipped` keeps it, as a user of transformers' collator does.
    """
    mlm_keys = ("input_ids", "labels", *(["attention_mask"] if masks.padded else []))
    span_keys = (*mlm_keys, "masked_positions", *BOUNDARIES)
    compact = masks.padded  # the rows of full texts have targets in every slot
    match name:
        case "spanbert":
            return Provider(model, masks.spans, None, varying=compact, skips_rows=True)
        case "spanbert_no_sbo":
            return Provider(model, masks.spans, None, BOUNDARIES, varying=compact, skips_rows=True)
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
