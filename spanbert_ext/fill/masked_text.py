# SPDX-License-Identifier: Apache-2.0
"""Text with masked spans: what a person writes, and the row of tokens that a model reads."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from spanbert_ext.ops._common import shown

MARK = "[MASK]"  # for any tokenizer, beside its own
HOW = f"write {MARK}, or {{3}} for a span of three tokens"


@dataclass(frozen=True)
class MaskedText:
    """A text as it was given, the `pieces` of plain text around its spans, one more than there are spans, and how many
    tokens each span has."""

    text: str
    pieces: tuple[str, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class MaskedRow:
    """The tokens of a text. `spans` are the ranges of masked ones; the span-boundary head predicts those that are
    `bounded`, between two tokens that are not special."""

    masked: MaskedText
    inputs: dict[str, list[int]]  # of the model, by name, L numbers each
    spans: tuple[range, ...]
    bounded: tuple[bool, ...]

    @property
    def ids(self) -> list[int]:
        return self.inputs["input_ids"]


def read_marks(text: str, mask_token: str, most: int) -> MaskedText:
    """The spans of a text. `[MASK]`, or the tokenizer's own mask token, is one masked token, `{3}` are three. Marks
    with nothing but white space between them are one span, as touching spans are in training. `{{` and `}}` are braces.

    Args:
        most: tokens that the model reads.

    Raises:
        TypeError: the text is none.
        ValueError: bytes that are no UTF-8; no span; a brace that is neither doubled nor around a number; a number
            below 1, or more masked tokens than the model reads.
    """
    if not isinstance(text, str):
        raise TypeError(f"text is {shown(text)}; expected a text, or a list of texts")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes that Python read as surrogates
        raise ValueError(f"the text is not UTF-8 at character {error.start + 1}") from None
    marks = "|".join(re.escape(mark) for mark in (MARK, mask_token))
    pieces, counts, end = [""], [], 0
    for match in re.finditer(rf"\{{\{{|\}}\}}|\{{[^{{}}]*\}}|[{{}}]|{marks}", text):
        found = match[0]
        pieces[-1] += text[end : match.start()]
        end = match.end()
        if found in ("{{", "}}"):
            pieces[-1] += found[0]
            continue
        count = 1 if found in (MARK, mask_token) else _count(found, match.start())
        if counts and not pieces[-1].strip():
            counts[-1] += count
            pieces[-1] = ""
        else:
            counts.append(count)
            pieces.append("")
    pieces[-1] += text[end:]
    if not counts:
        raise ValueError(f"the text has no masked span: {HOW}")
    if sum(counts) > most:
        raise ValueError(
            f"the text has {sum(counts):,} masked tokens; the model reads at most {most:,} tokens"
        )
    return MaskedText(text, tuple(pieces), tuple(counts))


def _count(mark: str, position: int) -> int:
    """The number in `{3}`."""
    number = mark[1:-1].strip()
    if len(mark) < 2 or not re.fullmatch(r"[+-]?[0-9]+", number):
        raise ValueError(
            f"{mark!r} at character {position + 1} is no span: expected its number of tokens, as {{3}}; a brace of the "
            "text itself is written twice, {{ or }}"
        )
    number = number.lstrip("+")
    if number.startswith("-") or not number.strip("0"):
        raise ValueError(f"{mark!r} at character {position + 1}: expected a span of 1 token or more")
    return int(number[:12])  # more digits than a model has tokens


def encode_text(masked: MaskedText, tokenizer: Any, special: Collection[int], most: int) -> MaskedRow:
    """The row of a text, with the special tokens that the tokenizer puts around it.

    Spaces before a mask are left out: where a tokenizer writes the space into the word behind it, the mask stands for
    both.

    Args:
        special: ids that are never a boundary.
        most: tokens that the model reads.

    Raises:
        ValueError: too long for the model; the tokenizer makes other masked tokens than the text has.
    """
    text = ""
    for piece, count in zip(masked.pieces, masked.counts, strict=False):
        text += piece.rstrip(" ") + tokenizer.mask_token * count
    text += masked.pieces[-1]
    encoding = tokenizer(text, padding=False, truncation=False, return_attention_mask=True, verbose=False)
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = {name: list(encoding[name]) for name in names if name in encoding}
    ids = inputs["input_ids"]
    if len(ids) > most:
        raise ValueError(f"the text makes {len(ids):,} tokens; the model reads at most {most:,}")
    spans = _runs(ids, tokenizer.mask_token_id)
    if [len(span) for span in spans] != list(masked.counts):
        raise ValueError(
            f"the tokenizer makes spans of {[len(span) for span in spans]} masked tokens where the text has "
            f"{list(masked.counts)}: what stands between two spans makes no token, or {tokenizer.mask_token!r} is no "
            "special token of it"
        )
    bounded = tuple(
        span.start > 0
        and span.stop < len(ids)
        and ids[span.start - 1] not in special
        and ids[span.stop] not in special
        for span in spans
    )
    return MaskedRow(masked, inputs, spans, bounded)


def _runs(ids: Sequence[int], mask: int) -> tuple[range, ...]:
    """The maximal runs of masked positions."""
    edges = [
        i for i in range(len(ids) + 1) if (0 < i and ids[i - 1] == mask) != (i < len(ids) and ids[i] == mask)
    ]
    return tuple(range(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True))
