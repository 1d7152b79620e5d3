# SPDX-License-Identifier: Apache-2.0
"""What was filled in: of a text its spans, of a span each head's guesses and fillings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Guess:
    """A token in one place of a span."""

    text: str  # as people read it; `·` before what continues a word
    token: str  # as the vocabulary has it; `<47>` of an id that it has not
    id: int
    log_probability: float

    @property
    def probability(self) -> float:
        return math.exp(self.log_probability)

    def as_dict(self) -> dict[str, Any]:
        return {"text": self.text, "token": self.token, "id": self.id, "probability": self.probability}


@dataclass(frozen=True)
class SpanFilling:
    """Tokens for a whole span; their probability is the product of each one's."""

    text: str  # `·` before it where it continues the word before the span
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    log_probability: float
    joined: bool = False  # whether it continues that word

    @property
    def probability(self) -> float:
        """0 where that is below the smallest double."""
        return math.exp(self.log_probability)

    def as_dict(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "tokens": list(self.tokens),
            "ids": list(self.ids),
            "probability": self.probability,
            "log_probability": self.log_probability,
            "joined": self.joined,
        }


@dataclass(frozen=True)
class HeadFillings:
    """Of one head, best first: the `guesses` at each token, none where the head does not predict it, and the
    `fillings` of the whole span, none where it does not predict all."""

    guesses: tuple[tuple[Guess, ...], ...]
    fillings: tuple[SpanFilling, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "fillings": [filling.as_dict() for filling in self.fillings],
            "guesses": [[guess.as_dict() for guess in of_token] for of_token in self.guesses],
        }


@dataclass(frozen=True)
class FilledSpan:
    """A masked span and what each head fills in.

    Attributes:
        start, stop: token positions in the row; `len(span)` tokens.
        left, right: the tokens outside it, as people read them.
        heads: by name, "mlm", "sbo", "both".
        agreement: for each token how much the MLM and the SBO head agree, from 0 to 1: 1 minus the Jensen-Shannon
            divergence in bits of their distributions over the vocabulary; None where not both were asked, or the
            SBO head does not predict.
        sbo_absent: why the span-boundary head does not predict some tokens, for which "both" is the MLM head alone;
            empty where it predicts all, or was not asked.
    """

    start: int
    stop: int
    left: str
    right: str
    heads: dict[str, HeadFillings]
    agreement: tuple[float | None, ...]
    sbo_absent: str = ""

    def __len__(self) -> int:
        return self.stop - self.start

    def as_dict(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "stop": self.stop,
            "left": self.left,
            "right": self.right,
            "agreement": list(self.agreement),
            "sbo_absent": self.sbo_absent,
            "heads": {head: found.as_dict() for head, found in self.heads.items()},
        }


@dataclass(frozen=True)
class FilledText:
    """A text as it was given, the `pieces` around its spans (one more than spans), and what was filled in."""

    text: str
    pieces: tuple[str, ...]
    spans: tuple[FilledSpan, ...]

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(self.spans[0].heads)

    def filled(self, head: str) -> str:
        """The text with a head's best filling in each span, or the span's length, as `{3}`, where it has none."""
        best = [next(iter(span.heads[head].fillings), None) for span in self.spans]
        texts = [
            f"{{{len(span)}}}" if x is None else x.text[x.joined :]
            for x, span in zip(best, self.spans, strict=True)
        ]
        return self.with_spans(texts, [x is not None and x.joined for x in best])

    def with_spans(self, texts: Sequence[str], joined: Sequence[bool] | None = None) -> str:
        """The text with these in the places of its spans, one each; `joined`: which continue the word before them."""
        whole = self.pieces[0]
        for text, piece, joins in zip(texts, self.pieces[1:], joined or [False] * len(texts), strict=True):
            whole = (whole.rstrip() if joins else whole) + text + piece
        return whole

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "text": self.text,
            "filled": {head: self.filled(head) for head in self.heads},
            "spans": [span.as_dict() for span in self.spans],
        }
