# SPDX-License-Identifier: Apache-2.0
"""What was filled in as lines for a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from spanbert_ext.fill.predictions import TITLES
from spanbert_ext.fill.results import FilledSpan, FilledText, Guess
from spanbert_ext.masking.show import printable

_CELL = 24  # most columns of a filling
_GAP = "   "


def fill_table(filled: FilledText) -> str:
    """The text with its spans numbered; of each span the fillings of its heads side by side, and, where it has several
    tokens, each token's guesses."""
    numbers = [f"[{number}]" for number in range(1, len(filled.spans) + 1)]
    lines = [printable(" ".join(filled.with_spans(numbers).split()).encode())]
    for number, span in zip(numbers, filled.spans, strict=True):
        lines += ["", f"{number} {_about(span)}", *_fillings(span)]
        if len(span) > 1:
            lines += ["", *_guesses(span)]
    return "\n".join(line.rstrip() for line in lines)


def percent(probability: float) -> str:
    """With three digits."""
    if probability >= 0.9995:
        return "100 %"
    return f"{100 * probability:#.3g} %" if probability >= 1e-6 else f"{probability:.1e}"


def _about(span: FilledSpan) -> str:
    text = f"{len(span)} token{'s' * (len(span) > 1)} between {span.left or 'nothing'} and {span.right or 'nothing'}"
    if len(span) == 1 and span.agreement[0] is not None:
        text += f"; the heads agree by {span.agreement[0]:.2f}"
    return f"{text}\n    SBO: {span.sbo_absent}" if span.sbo_absent else text


def _fillings(span: FilledSpan) -> list[str]:
    columns = []
    for head, found in span.heads.items():
        texts = [shorten(filling.text, _CELL) for filling in found.fillings] or ["-"]
        numbers = [percent(filling.probability) for filling in found.fillings] or [""]
        width, digits = max(map(columns_of, texts)), max(map(len, numbers))
        cells = [
            padded(text, width) + "  " + number.rjust(digits)
            for text, number in zip(texts, numbers, strict=True)
        ]
        columns.append([TITLES[head], *cells])
    rows = max(map(len, columns))
    widths = [max(map(columns_of, column)) for column in columns]
    lines = []
    for row in range(rows):
        cells = [column[row] if row < len(column) else "" for column in columns]
        rank = f"{row:3} " if row else "    "
        lines.append(rank + _GAP.join(padded(cell, width) for cell, width in zip(cells, widths, strict=True)))
    return lines


def _guesses(span: FilledSpan) -> list[str]:
    lines = []
    for place, agreement in enumerate(span.agreement):
        title = f"token {place + 1}"
        for head, found in span.heads.items():
            lines.append(f"    {title:<10}{TITLES[head]:<10}{_listed(found.guesses[place])}")
            title = ""
        if agreement is not None:
            lines.append(f"    {'':<10}the heads agree by {agreement:.2f}")
    return lines


def _listed(guesses: Sequence[Guess]) -> str:
    return ", ".join(f"{shorten(x.text, _CELL)} {percent(x.probability)}" for x in guesses) or "-"


# --- Columns of a terminal -------------------------------------------------------------------------------------


def columns_of(text: str) -> int:
    """How many columns a text takes: East Asian characters two, marks on the one before them none."""
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, width: int) -> str:
    return text + " " * (width - columns_of(text))


def shorten(text: str, width: int) -> str:
    """At most so many columns, with `…` where it was cut."""
    if columns_of(text) <= width:
        return text
    kept = ""
    for character in text:
        if columns_of(kept + character) > width - 1:
            break
        kept += character
    return kept + "…"
