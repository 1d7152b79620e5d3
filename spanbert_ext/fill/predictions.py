# SPDX-License-Identifier: Apache-2.0
"""What each head predicts for every masked token of some texts: one forward pass, log-probabilities out."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spanbert_ext.fill.masked_text import MaskedRow
from spanbert_ext.models.head_logits import head_logits
from spanbert_ext.models.pretraining import SpanBertForPreTraining
from spanbert_ext.ops._common import accumulation_dtype, shown

HEADS = ("mlm", "sbo", "both")
TITLES = {"mlm": "MLM head", "sbo": "SBO head", "both": "both"}


@dataclass(frozen=True)
class Predictions:
    """Of one row with N masked tokens."""

    log_probabilities: dict[str, Tensor]  # by head [N, V]
    by_sbo: list[bool]  # N: whether the span-boundary head predicts the token
    agreement: list[float | None]  # N: of the MLM and the SBO head, where both were asked and predict


def plain_model(model: Any) -> PreTrainedModel:
    """The masked language model itself, out of torch.compile, DistributedDataParallel or PEFT.

    Raises:
        TypeError: it is none.
    """
    inner = getattr(model, "_orig_mod", model)
    if isinstance(inner, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        inner = inner.module
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    if not isinstance(inner, PreTrainedModel):
        raise TypeError(
            f"model is {shown(model)}; expected a SpanBertForPreTraining or another masked language model"
        )
    return inner


def chosen_heads(model: PreTrainedModel, heads: Sequence[str] | None) -> tuple[str, ...]:
    """The heads to ask, in the order of HEADS; None: those that the model has.

    Raises:
        TypeError: no list of names.
        ValueError: an unknown name or none; "sbo" or "both" of a model whose span-boundary head is missing or
            untrained.
    """
    if heads is None:
        return HEADS if missing_sbo(model) is None else ("mlm",)
    if isinstance(heads, str):
        heads = (heads,)
    try:
        asked = tuple(heads)
    except TypeError:
        raise TypeError(f"heads is {shown(heads)}; expected names out of {', '.join(HEADS)}") from None
    unknown = [head for head in asked if head not in HEADS]
    if unknown or not asked:
        found = repr(unknown[0]) if unknown else "empty"
        raise ValueError(f"heads has {found}; expected one or more of {', '.join(HEADS)}")
    reason = missing_sbo(model)
    if reason is not None and asked != ("mlm",):
        raise ValueError(f"heads has {next(head for head in asked if head != 'mlm')!r}, but {reason}")
    return tuple(head for head in HEADS if head in asked)


def missing_sbo(model: PreTrainedModel) -> str | None:
    """Why nothing can be filled in from boundaries, or None."""
    if not isinstance(model, SpanBertForPreTraining):
        return f"a {type(model).__name__} has no span-boundary head; a SpanBertForPreTraining has one"
    if getattr(model.sbo, "untrained", False):
        return "the span-boundary head of the model is untrained, as of a checkpoint that has none"
    return None


def predict(model: PreTrainedModel, rows: Sequence[MaskedRow], heads: Sequence[str]) -> list[Predictions]:
    """Each row's predictions. Probabilities are over the whole vocabulary, in float32 or better.

    Args:
        rows: of one length, so that none is padded and no row's result depends on the others.

    Raises:
        ValueError: an id beyond the model's vocabulary, or logits that are NaN or of another shape.
    """
    size = model.get_input_embeddings().weight.shape[0]
    for row in rows:
        if max(row.ids) >= size:
            raise ValueError(
                f"the tokenizer makes the id {max(row.ids)}; the model has a vocabulary of {size}: they are not of one "
                "model"
            )
    device, length = model.device, len(rows[0].ids)
    inputs = {
        name: torch.tensor([row.inputs[name] for row in rows], device=device) for name in rows[0].inputs
    }  # [B, L] each
    masked = [[position for span in row.spans for position in span] for row in rows]
    tokens = torch.tensor(
        [b * length + i for b, of_row in enumerate(masked) for i in of_row], device=device
    )  # [R]
    slots = _position_slots(model) if heads != ("mlm",) else 0
    by_sbo = [
        [
            bounded and i - span.start < slots
            for span, bounded in zip(row.spans, row.bounded, strict=True)
            for i in span
        ]
        for row in rows
    ]
    indices = _boundary_indices(rows, by_sbo, device) if heads != ("mlm",) else ()
    with _evaluating(model), torch.no_grad():
        of_mlm, of_sbo = _logits(model, inputs, tokens, indices)
    log_mlm = _log_probabilities(of_mlm)  # [R, V]
    found, agreement = {"mlm": log_mlm}, [None] * len(tokens)
    if of_sbo is not None:
        live = torch.tensor([live for of_row in by_sbo for live in of_row], device=device)  # [R]
        entry = [b * indices[0].shape[1] + k for b, of_row in enumerate(masked) for k in range(len(of_row))]
        of_sbo = of_sbo.flatten(0, 1)[torch.tensor(entry, device=device)]  # [R, V]
        log_sbo = _log_probabilities(of_sbo.masked_fill(~live[:, None], 0))
        # A mean, not the product: both heads read the same text, and the product would count it twice.
        both = torch.log_softmax((log_mlm + log_sbo) / 2, -1)
        found |= {"sbo": log_sbo, "both": torch.where(live[:, None], both, log_mlm)}
        if {"mlm", "sbo"} <= set(heads):
            measured = _agreement(log_mlm, log_sbo).tolist()
            agreement = [x if known else None for x, known in zip(measured, live.tolist(), strict=True)]
    results, start = [], 0
    for row, of_row in enumerate(masked):
        stop = start + len(of_row)
        kept = {head: found[head][start:stop] for head in heads}
        results.append(Predictions(kept, by_sbo[row], agreement[start:stop]))
        start = stop
    return results


def _position_slots(model: Any) -> int:
    table = model.sbo.position_embeddings
    return getattr(table, "num_embeddings", model.sbo.position_slots)


def _boundary_indices(
    rows: Sequence[MaskedRow], by_sbo: Sequence[Sequence[bool]], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """masked_positions, left_boundary, right_boundary [B, K], as from the collator."""
    most = max(sum(len(span) for span in row.spans) for row in rows)
    indices = torch.full((3, len(rows), most), -1, dtype=torch.int64)
    for b, row in enumerate(rows):
        entries = [(i, span.start - 1, span.stop) for span in row.spans for i in span]
        for k, (entry, live) in enumerate(zip(entries, by_sbo[b], strict=True)):
            indices[:, b, k] = torch.tensor(entry if live else (entry[0], -1, -1))
    return tuple(indices.to(device))


def _logits(
    model: Any, inputs: dict[str, Tensor], tokens: Tensor, indices: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor | None]:
    """The MLM head's [R, V] and the span-boundary head's [B, K, V]."""
    if isinstance(model, SpanBertForPreTraining):
        return head_logits(model, inputs, tokens, *indices)
    taken = inspect.signature(model.forward).parameters
    logits = getattr(model(**{name: x for name, x in inputs.items() if name in taken}), "logits", None)
    size = model.get_input_embeddings().weight.shape[0]
    if logits is None or logits.dim() != 3 or logits.shape[1] != inputs["input_ids"].shape[1]:
        raise ValueError(
            f"{type(model).__name__} is no masked language model: it gives no logits for every token"
        )
    if logits.shape[2] < size:
        raise ValueError(
            f"{type(model).__name__} is no masked language model: its logits have {logits.shape[2]} values, its "
            f"vocabulary has {size}"
        )
    return logits.flatten(0, 1)[tokens], None


def _log_probabilities(logits: Tensor) -> Tensor:
    found = torch.log_softmax(logits.to(accumulation_dtype(logits.dtype)), -1)
    if found.isnan().any():
        raise ValueError("the model's logits are NaN: its weights hold NaN or an infinity")
    return found


def _agreement(log_p: Tensor, log_q: Tensor) -> Tensor:
    """[R] 1 - Jensen-Shannon divergence of two distributions [R, V], in bits: 1 where they are the same, 0 where they
    have no token in common."""
    log_p, log_q = log_p.double(), log_q.double()
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    divergence = sum(
        (log_x.exp() * (log_x - log_m).where(log_x > -torch.inf, 0)).sum(-1) for log_x in (log_p, log_q)
    )
    return (1 - divergence / (2 * math.log(2))).clamp(0, 1)


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """`model.eval()`, then every module in the mode that it was in. A model in evaluation is left alone: other threads
    may use it."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
