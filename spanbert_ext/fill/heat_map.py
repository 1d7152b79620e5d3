"""A picture of what the heads fill into the spans of a text, and where they agree."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spanbert_ext.fill.predictions import TITLES
from spanbert_ext.fill.results import FilledSpan, FilledText
from spanbert_ext.fill.table import percent, shorten

_PER_BLOCK = 8  # tokens side by side
_COLUMN, _ROW, _TITLE = 1.35, 0.42, 0.75  # inches
_LONGEST = 12  # characters of a guess
_PLAIN = {"parse_math": False}  # a `$` is a dollar


def draw_heat_map(filled: FilledText, path: str | Path) -> None:
    """Writes a PNG. Of each span, tokens from left to right: a panel a head with each token's guesses, the most
    probable on top, as dark as they are probable, and a strip with how much the MLM and the SBO head agree. Long spans
    go on in further blocks.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no display and no global state
    from matplotlib.figure import Figure

    blocks = [
        (number, span, range(start, min(start + _PER_BLOCK, len(span))))
        for number, span in enumerate(filled.spans, 1)
        for start in range(0, len(span), _PER_BLOCK)
    ]
    heights = [_height(span, places) for _, span, places in blocks]
    width = max(6.0, 1.6 + _COLUMN * max(len(places) for _, _, places in blocks))
    title = _wrapped(filled, width)
    top = 0.35 + 0.22 * title.count("\n")
    figure = Figure(figsize=(width, sum(heights) + top), dpi=120)
    FigureCanvasAgg(figure)
    figure.text(0.15 / width, 1 - 0.12 / figure.get_figheight(), title, va="top", fontsize=10, **_PLAIN)
    begin = sum(heights)
    for (number, span, places), height in zip(blocks, heights, strict=True):
        begin -= height
        _draw_block(figure, number, span, places, begin, height)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # drawn as a box
        figure.savefig(path, format="png")


def _wrapped(filled: FilledText, width: float) -> str:
    """The text with its spans numbered, in lines as wide as the figure; at most three."""
    words = filled.with_spans([f"[{number}]" for number in range(1, len(filled.spans) + 1)]).split()
    most, lines = int(width * 11), [""]
    for word in words:
        word = shorten(word, most)
        if lines[-1] and len(lines[-1]) + len(word) >= most:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines[:2] + ["…"] * (len(lines) > 2))


def _ranks(span: FilledSpan, places: range) -> dict[str, int]:
    """How many rows each head's panel has; a head that predicts none of the tokens has no panel."""
    ranks = {head: max(len(found.guesses[i]) for i in places) for head, found in span.heads.items()}
    return {head: count for head, count in ranks.items() if count}


def _height(span: FilledSpan, places: range) -> float:
    ranks = _ranks(span, places)
    strip = any(span.agreement[i] is not None for i in places)
    return _TITLE + sum(_ROW * count + 0.15 for count in ranks.values()) + (_ROW + 0.15) * strip + 0.35


def _draw_block(
    figure: Any, number: int, span: FilledSpan, places: range, begin: float, height: float
) -> None:
    """`begin`, `height`: of the block in the figure, in inches from its bottom."""
    width, total = figure.get_size_inches()
    left, across = 0.95 / width, _COLUMN * len(places) / width
    top = begin + height - _TITLE
    about = f"[{number}] {len(span)} token{'s' * (len(span) > 1)} between {span.left} and {span.right}"
    if len(places) < len(span):
        about += f": {places.start + 1} to {places.stop}"
    figure.text(0.15 / width, (top + 0.42) / total, about, fontsize=10, fontweight="bold", **_PLAIN)
    first = True
    for head, count in _ranks(span, places).items():
        size = _ROW * count
        axes = figure.add_axes((left, (top - size) / total, across, size / total))
        cells = [[x.probability for x in span.heads[head].guesses[i]] for i in places]
        labels = [[shorten(x.text, _LONGEST) for x in span.heads[head].guesses[i]] for i in places]
        _draw_cells(
            axes, cells, labels, count, "Blues" if head == "mlm" else "Oranges" if head == "sbo" else "Greens"
        )
        axes.set_ylabel(TITLES[head], rotation=0, ha="right", va="center", fontsize=10)
        if first:
            axes.xaxis.tick_top()
            axes.set_xticks(range(len(places)), [f"token {i + 1}" for i in places], fontsize=9)
            first = False
        top -= size + 0.15
    agreement = [span.agreement[i] for i in places]
    if any(value is not None for value in agreement):
        axes = figure.add_axes((left, (top - _ROW) / total, across, _ROW / total))
        _draw_cells(axes, [[] if x is None else [x] for x in agreement], None, 1, "Purples")
        axes.set_ylabel("agreement", rotation=0, ha="right", va="center", fontsize=10)
        top -= _ROW + 0.15
    if span.sbo_absent:
        figure.text(0.15 / width, (top - 0.12) / total, f"SBO: {span.sbo_absent}", fontsize=8, **_PLAIN)


def _draw_cells(
    axes: Any,
    cells: Sequence[Sequence[float]],
    labels: Sequence[Sequence[str]] | None,
    rows: int,
    colours: str,
) -> None:
    """Columns of values from 0 to 1, dark for 1, with their numbers, and with labels those above them."""
    grid = [[column[row] if row < len(column) else float("nan") for column in cells] for row in range(rows)]
    axes.imshow(grid, cmap=colours, vmin=0, vmax=1, aspect="auto")
    for x, column in enumerate(cells):
        for y, value in enumerate(column):
            text = f"{value:.2f}" if labels is None else f"{labels[x][y]}\n{percent(value)}"
            colour = "white" if value > 0.55 else "black"
            axes.text(
                x, y, text, ha="center", va="center", color=colour, fontsize=8, linespacing=1.1, **_PLAIN
            )
    axes.set_xticks([])
    axes.set_yticks([])
    for x in range(len(cells) - 1):
        axes.axvline(x + 0.5, color="white", linewidth=2)
    for side in axes.spines.values():
        side.set_color("0.8")
