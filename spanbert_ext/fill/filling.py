# SPDX-License-Identifier: Apache-2.0
"""`fill_spans`: text with masked spans in, what each head fills in out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from spanbert_ext.fill.joint import best_sums
from spanbert_ext.fill.masked_text import MaskedRow, encode_text, read_marks
from spanbert_ext.fill.predictions import (
    Predictions,
    chosen_heads,
    missing_sbo,
    plain_model,
    predict,
)
from spanbert_ext.fill.results import FilledSpan, FilledText, Guess, HeadFillings, SpanFilling
from spanbert_ext.fill.vocabulary import Vocabulary
from spanbert_ext.models.positions import most_positions
from spanbert_ext.models.pretraining import SpanBertForPreTraining
from spanbert_ext.ops._common import integer, shown

_UNLIMITED = 2**16  # tokens of a text for a model that states no limit


@overload
def fill_spans(
    model: Any, tokenizer: Any, text: str, top_k: int = 5, heads: Sequence[str] | None = None, **options: Any
) -> FilledText: ...
@overload
def fill_spans(
    model: Any,
    tokenizer: Any,
    text: list[str],
    top_k: int = 5,
    heads: Sequence[str] | None = None,
    **options: Any,
) -> list[FilledText]: ...
def fill_spans(
    model: Any,
    tokenizer: Any,
    text: str | Sequence[str],
    top_k: int = 5,
    heads: Sequence[str] | None = None,
    *,
    allowed: str | Iterable[int | str] | None = None,
    batch_size: int = 16,
) -> FilledText | list[FilledText]:
    """What each head fills into the masked spans of a text, with probabilities.

        filled = fill_spans(model, tokenizer, "The {2} barked at the [MASK].")
        filled.spans[0].heads["sbo"].fillings[0].text

    `[MASK]`, or the tokenizer's own mask token, is a masked token, `{3}` a span of three; marks with nothing but white
    space between them are one span; `{{` and `}}` are braces.

    **Tokens: `guesses`.** The MLM head predicts each masked token from its own place; the span-boundary head (SBO) from
    the two tokens just outside the span and the place in it. "both" is their geometric mean: the mean of
    their log-probabilities, normalised over the vocabulary again. It ranks as their product does, which is far too sure
    of itself, because both heads read the same text. Probabilities are those of the whole vocabulary: what may not be
    filled in is left out and its share goes to nothing else, so those that are listed sum to less than 1.

    **Spans: `fillings`.** In one forward pass the tokens of a span are predicted independently of each other. So the
    probability of a filling is the product of its tokens', and `fillings` are exactly the `top_k` of the highest
    probability out of all that there are, not a beam's.

    **Where the SBO does not predict**: spans at the text's edge or beside another special token, which have no
    boundary, and tokens of a span past the model's position slots. There "sbo" has no guesses, and "both" is the MLM
    head alone; `sbo_absent` of the span says so.

    Args:
        model: a `SpanBertForPreTraining`, or any masked language model of transformers, which has the MLM head alone.
            It is asked on its device, in its dtype, in evaluation mode, without gradients, and left in the mode that it
            was in (one in training may not be used by other threads meanwhile). Probabilities are computed in float32
            (float64 of a float64 model).
        tokenizer: the model's.
        text: one, or a list of them.
        top_k: guesses a token, and fillings a span; fewer where fewer are allowed.
        heads: out of "mlm", "sbo", "both". None: all that the model has, with a warning where it has an untrained
            span-boundary head.
        allowed: what may be filled in: ids or tokens of the vocabulary; "all": every id. None: all but special tokens,
            the unknown one, and unused ones such as `[unused7]`.
        batch_size: texts of one forward pass. Texts go together when they have the same length in tokens: none is
            padded, and a text's result does not depend on the others.

    Returns:
        A `FilledText`, or for a list a list of them.

    Raises:
        TypeError, ValueError: naming the argument, what it is and what was expected. Of a list, which text: one
            without a span, one that is too long for the model, a wrong mark. Asked for "sbo" or "both", a model whose
            span-boundary head is missing or untrained.
    """
    filler = Filler(model, tokenizer, top_k, heads, allowed=allowed, batch_size=batch_size)
    if heads is None and isinstance(filler.model, SpanBertForPreTraining) and filler.heads == ("mlm",):
        warnings.warn(f"{missing_sbo(filler.model)}: only the MLM head fills in", stacklevel=2)
    if isinstance(text, str):
        return filler.fill([filler.read(text)])[0]
    if not isinstance(text, Iterable):
        raise TypeError(f"text is {shown(text)}; expected a text, or a list of texts")
    rows: list[MaskedRow] = []
    for number, one in enumerate(text):
        try:
            rows.append(filler.read(one))
        except (TypeError, ValueError) as error:
            raise type(error)(f"text[{number}]: {error}") from None
    return filler.fill(rows)


class Filler:
    """`fill_spans` of one model, many times. Arguments and errors are those of `fill_spans`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        top_k: int = 5,
        heads: Sequence[str] | None = None,
        *,
        allowed: str | Iterable[int | str] | None = None,
        batch_size: int = 16,
    ) -> None:
        self.model = plain_model(model)
        self.vocabulary = Vocabulary(tokenizer)
        self.top_k, self.batch_size = integer("top_k", top_k), integer("batch_size", batch_size)
        for name in ("top_k", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        self.heads = chosen_heads(self.model, heads)
        size = self.model.get_input_embeddings().weight.shape[0]
        if tokenizer.mask_token_id >= size:
            raise ValueError(
                f"tokenizer has the mask token at id {tokenizer.mask_token_id}; the model has a vocabulary of {size}: "
                "they are not of one model"
            )
        allowed = self.vocabulary.ids(allowed, size)
        self._allowed = None if allowed is None else torch.tensor(allowed, device=self.model.device)  # [C]
        self._most = most_positions(self.model) or _UNLIMITED

    def read(self, text: str) -> MaskedRow:
        """A text's spans and tokens."""
        tokenizer = self.vocabulary.tokenizer
        masked = read_marks(text, tokenizer.mask_token, self._most)
        return encode_text(masked, tokenizer, self.vocabulary.special, self._most)

    def fill(self, rows: Sequence[MaskedRow]) -> list[FilledText]:
        """In the order of the rows."""
        by_length: dict[int, list[int]] = {}
        for number, row in enumerate(rows):
            by_length.setdefault(len(row.ids), []).append(number)
        found: dict[int, FilledText] = {}
        for numbers in by_length.values():
            for start in range(0, len(numbers), self.batch_size):
                batch = numbers[start : start + self.batch_size]
                predictions = predict(self.model, [rows[number] for number in batch], self.heads)
                for number, prediction in zip(batch, predictions, strict=True):
                    found[number] = self._filled(rows[number], prediction)
        return [found[number] for number in range(len(rows))]

    def _filled(self, row: MaskedRow, predictions: Predictions) -> FilledText:
        best = {head: self._best(x) for head, x in predictions.log_probabilities.items()}
        spans, start = [], 0
        for span, bounded in zip(row.spans, row.bounded, strict=True):
            stop = start + len(span)
            by_sbo = predictions.by_sbo[start:stop]
            inside = span.start > 0 and row.ids[span.start - 1] not in self.vocabulary.special
            heads = {}
            for head, found in best.items():
                asked = by_sbo if head == "sbo" else [True] * len(span)
                of_span = [x if live else [] for x, live in zip(found[start:stop], asked, strict=True)]
                heads[head] = self._head_fillings(of_span, inside)
            left, right = self._outside(row, span.start - 1), self._outside(row, span.stop)
            agreement = tuple(predictions.agreement[start:stop])
            absent = self._absent(by_sbo, bounded)
            spans.append(FilledSpan(span.start, span.stop, left, right, heads, agreement, absent))
            start = stop
        return FilledText(row.masked.text, row.masked.pieces, tuple(spans))

    def _best(self, log_probabilities: Tensor) -> list[list[tuple[float, int]]]:
        """[N, V] -> for each token the guesses' log-probabilities and ids, best first; impossible ones are none."""
        scores = log_probabilities if self._allowed is None else log_probabilities[:, self._allowed]
        values, places = scores.topk(min(self.top_k, scores.shape[1]))  # [N, k]
        ids = places if self._allowed is None else self._allowed[places]
        return [
            [(value, id) for value, id in zip(*row, strict=True) if value > -math.inf]
            for row in zip(values.tolist(), ids.tolist(), strict=True)
        ]

    def _head_fillings(self, best: Sequence[Sequence[tuple[float, int]]], inside: bool) -> HeadFillings:
        """`inside`: whether an ordinary token stands before the span."""
        words = self.vocabulary
        guesses = tuple(
            tuple(
                Guess(words.label(id, inside or place > 0), words.token(id), id, value)
                for value, id in of_token
            )
            for place, of_token in enumerate(best)
        )
        fillings = []
        for value, places in best_sums([[value for value, _ in of_token] for of_token in best], self.top_k):
            ids = tuple(of_token[place][1] for of_token, place in zip(best, places, strict=True))
            tokens, joined = tuple(map(words.token, ids)), words.continues(ids[0], inside)
            fillings.append(SpanFilling(words.text(ids, inside), tokens, ids, value, joined))
        return HeadFillings(guesses, tuple(fillings))

    def _outside(self, row: MaskedRow, position: int) -> str:
        return self.vocabulary.label(row.ids[position], False) if 0 <= position < len(row.ids) else ""

    def _absent(self, by_sbo: Sequence[bool], bounded: bool) -> str:
        if self.heads == ("mlm",) or all(by_sbo):
            return ""
        if not bounded:
            return "no boundary: the span is at the text's edge or beside another special token"
        slots = sum(by_sbo)
        return f"{slots} position slots: the span-boundary head predicts the first {slots} tokens of a span"
