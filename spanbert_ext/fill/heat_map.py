# SPDX-License-Identifier: Apache-2.0
"""A picture of what the heads fill into the spans of a text, and where they agree."""

from __future__ import annotations

import io
import os
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spanbert_ext.files.disk import write_synced
from spanbert_ext.fill.predictions import TITLES
from spanbert_ext.fill.results import FilledSpan, FilledText, Guess
from spanbert_ext.fill.table import percent, shorten

_PER_ROW = 8  # tokens side by side
_COLUMN, _ROW, _GAP = 1.5, 0.25, 0.09  # inches of a cell, and between panels
_LABELS, _TITLE, _NOTE = 0.95, 0.62, 0.16  # inches of a block's labels, its title and a line below it
_LEAST = 3.2  # inches of a block
_MARGIN = 0.15
_DPI, _HIGHEST = 120, 1 << 16  # pixels that matplotlib draws
_LONGEST = 13  # characters of a guess
_COLOURS = {"mlm": "Blues", "sbo": "Oranges", "both": "Greens"}
_PLAIN = {"parse_math": False}  # a `$` is a dollar


class _Block(NamedTuple):
    """Tokens `places` of a span."""

    number: int
    span: FilledSpan
    places: range

    @property
    def width(self) -> float:
        """Inches."""
        return max(_LEAST, _LABELS + _COLUMN * len(self.places)) + _MARGIN

    @property
    def height(self) -> float:
        panels = [*_ranks(self).values(), *([1] if _agreement(self) else [])]
        return _TITLE + sum(_ROW * rows + _GAP for rows in panels) + _NOTE * (1 + len(self.note))

    @property
    def note(self) -> list[str]:
        absent = self.span.sbo_absent
        return textwrap.wrap(f"SBO: {absent}", int(self.width * 14)) if absent else []


def draw_heat_map(filled: FilledText, path: str | Path) -> None:
    """Writes a PNG. Of each span, tokens from left to right: a panel a head with its guesses at each token, the most
    probable on top and the darker the more probable, in bold those that the MLM and the SBO head share; below a strip
    with how much these two agree. Of a span of more than 8 tokens the rest comes behind.

    Raises:
        OSError: the file cannot be written; what was there before is still there.
        ValueError: so many spans or guesses that the picture is too high.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no display and no global state
    from matplotlib.figure import Figure

    rows = _rows(filled)
    heights = [max(block.height for block in row) for row in rows]
    width = _MARGIN + max(sum(block.width for block in row) for row in rows)
    lines = _lines(filled, int(width * 11.5))
    height = sum(heights) + 0.2 + 0.19 * len(lines)
    if height * _DPI >= _HIGHEST:
        raise ValueError(
            f"the picture would be {height * _DPI:,.0f} pixels high, and may be {_HIGHEST - 1:,}: ask for fewer guesses"
            " (top_k) or spans"
        )
    figure = Figure(figsize=(width, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    figure.text(_MARGIN / width, 1 - 0.12 / height, "\n".join(lines), va="top", fontsize=10, **_PLAIN)
    top = sum(heights)
    for row, size in zip(rows, heights, strict=True):
        left = _MARGIN
        for block in row:
            _draw_block(figure, block, left, top)
            left += block.width
        top -= size
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # drawn as a box
        figure.savefig(picture := io.BytesIO(), format="png")
    target = Path(os.path.realpath(path))
    if target.is_file() or not target.exists():
        write_synced(picture.getvalue(), target)
    else:  # a device or a pipe is written to, not replaced
        target.write_bytes(picture.getvalue())


def _rows(filled: FilledText) -> list[list[_Block]]:
    """Blocks that stand side by side."""
    rows: list[list[_Block]] = []
    widest = 2 * _MARGIN + _LABELS + _COLUMN * _PER_ROW
    for number, span in enumerate(filled.spans, 1):
        for start in range(0, len(span), _PER_ROW):
            block = _Block(number, span, range(start, min(start + _PER_ROW, len(span))))
            if rows and sum(x.width for x in rows[-1]) + block.width <= widest:
                rows[-1].append(block)
            else:
                rows.append([block])
    return rows


def _lines(filled: FilledText, most: int) -> list[str]:
    """The text with its spans numbered, in at most three lines of so many characters."""
    lines = [""]
    for word in filled.with_spans([f"[{number}]" for number in range(1, len(filled.spans) + 1)]).split():
        word = shorten(word, most)
        if lines[-1] and len(lines[-1]) + len(word) >= most:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return lines[:2] + ["…"] if len(lines) > 3 else lines


def _ranks(block: _Block) -> dict[str, int]:
    """How many rows each head's panel has; a head that predicts none of the tokens has no panel."""
    heads = block.span.heads.items()
    ranks = {head: max(len(found.guesses[i]) for i in block.places) for head, found in heads}
    return {head: count for head, count in ranks.items() if count}


def _agreement(block: _Block) -> list[list[float]]:
    """A column a token, empty where the heads cannot be compared; no column where none can."""
    values = [block.span.agreement[i] for i in block.places]
    columns = [[] if value is None else [value] for value in values]
    return columns if any(columns) else []


def _shared(block: _Block) -> list[set[int]]:
    """For each token the ids that both the MLM and the SBO head list."""
    if not {"mlm", "sbo"} <= block.span.heads.keys():
        return [set() for _ in block.places]
    mlm, sbo = (block.span.heads[head].guesses for head in ("mlm", "sbo"))
    return [{x.id for x in mlm[i]} & {x.id for x in sbo[i]} for i in block.places]


def _draw_block(figure: Any, block: _Block, left: float, top: float) -> None:
    """`left`, `top`: of the block, in inches from the figure's left and from its bottom."""
    width, total = figure.get_size_inches()
    number, span, places = block
    about = f"[{number}] {len(span)} token{'s' * (len(span) > 1)} between {span.left} and {span.right}"
    if len(places) < len(span):
        last = f"s {places.start + 1} to {places.stop}" if len(places) > 1 else f" {places.stop}"
        about = f"[{number}] token{last} of {len(span)}"
    about = shorten(about, int(block.width * 10))
    figure.text(left / width, (top - 0.2) / total, about, fontsize=10, fontweight="bold", **_PLAIN)
    top -= _TITLE

    def panel(title: str, rows: int) -> Any:
        nonlocal top
        inches = (left + _LABELS, top - _ROW * rows, _COLUMN * len(places), _ROW * rows)
        axes = figure.add_axes([x / size for x, size in zip(inches, (width, total) * 2, strict=True)])
        axes.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
        top -= _ROW * rows + _GAP
        return axes

    shared = _shared(block)
    for index, (head, rows) in enumerate(_ranks(block).items()):
        guesses = [span.heads[head].guesses[i] for i in places]
        axes = panel(TITLES[head], rows)
        # most probabilities are small: their roots say more
        _draw_cells(axes, [[x.probability**0.5 for x in column] for column in guesses], rows, _COLOURS[head])
        _write_guesses(axes, guesses, shared)
        if index == 0:
            axes.xaxis.tick_top()
            axes.set_xticks(range(len(places)), [f"token {i + 1}" for i in places], fontsize=9)
            axes.tick_params(length=0)
    agreement = _agreement(block)
    if agreement:
        axes = panel("agreement", 1)
        _draw_cells(axes, agreement, 1, "Purples")
        for x, value in ((x, column[0]) for x, column in enumerate(agreement) if column):
            axes.text(x, 0, f"{value:.2f}", ha="center", va="center", fontsize=8, color=_ink(value))
    note = "\n".join(block.note)
    figure.text(left / width, (top - 0.03) / total, note, va="top", fontsize=8, **_PLAIN)


def _draw_cells(axes: Any, columns: Sequence[Sequence[float]], rows: int, colours: str) -> None:
    """Columns of values from 0 to 1, dark for 1."""
    grid = [[column[row] if row < len(column) else float("nan") for column in columns] for row in range(rows)]
    axes.imshow(grid, cmap=colours, vmin=0, vmax=1, aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for x in range(len(columns) - 1):
        axes.axvline(x + 0.5, color="white", linewidth=2)
    for side in axes.spines.values():
        side.set_color("0.8")


def _write_guesses(axes: Any, columns: Sequence[Sequence[Guess]], shared: Sequence[set[int]]) -> None:
    for x, column in enumerate(columns):
        for y, guess in enumerate(column):
            weight = "bold" if guess.id in shared[x] else "normal"
            style = {
                "va": "center",
                "color": _ink(guess.probability**0.5),
                "fontsize": 8,
                "fontweight": weight,
            }
            axes.text(x - 0.46, y, shorten(guess.text, _LONGEST), ha="left", **style, **_PLAIN)
            axes.text(x + 0.46, y, percent(guess.probability), ha="right", **style)


def _ink(shade: float) -> str:
    """Readable on a cell of that value."""
    return "white" if shade > 0.6 else "black"
