# SPDX-License-Identifier: Apache-2.0
"""Line charts as inline SVG: axes, lines by run, and the points for the page's script to read out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 400, 245  # of the drawing, which the page scales
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40  # margins
COLOURS = 8  # of the page's style
_MOST_POINTS = 240  # of a line
_SETTLING, _ENOUGH = (
    0.03,
    20,
)  # share of the x axis whose values need not fit, if so many points are behind it


@dataclass(frozen=True)
class Line:
    """`points` (x, y) of a run; `style` is "held-out" (with marks), "training" (thin), "dashed" or "level"."""

    label: str
    colour: int
    style: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """A chart; with `names` the x axis has these categories, at 0, 1, 2, ..."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    names: Sequence[str] = ()
    percent: bool = False
    from_zero: bool = False


def thin_out(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most 240 points: each the mean of as many neighbours."""
    size = math.ceil(len(points) / _MOST_POINTS)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [tuple(sum(values) / len(values) for values in zip(*group, strict=True)) for group in groups]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from about `low` to about `high`, at most so many, at least two. Two that differ by rounding alone
    are equal."""
    span, size = high - low, max(abs(low), abs(high))
    if span <= 1e-9 * size:
        span = size or 1.0
    exponent = math.floor(math.log10(span / most))
    magnitude = 10.0**exponent
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10, 20) if span / (m * magnitude) <= most - 1)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(step * i, 2 - exponent) for i in range(first, max(last, first + 1) + 1)]


def number(value: float, percent: bool = False) -> str:
    """A value as axes and labels show it."""
    if percent:
        return f"{100 * value:.3g} %"
    size = abs(value)
    for unit, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if size >= scale:
            scale = 1e3 if unit == "k" else scale
            return f"{value / scale:.4g}{unit}"
    return f"{value:.4g}" if size < 1000 else f"{value:,.0f}"


def svg(chart: Chart) -> str:
    """The chart as an `<svg>` with a description; its `data-chart` holds every line's points, in JSON."""
    lines = [
        Line(
            line.label,
            line.colour,
            line.style,
            thin_out([p for p in line.points if all(map(math.isfinite, p))]),
        )
        for line in chart.lines
    ]
    lines = [line for line in lines if line.points]
    xs = [x for line in lines if line.style != "level" for x, _ in line.points] or [0.0, 1.0]
    x_low, x_high = (0.0, max(xs)) if not chart.names else (-0.3, len(chart.names) - 0.7)
    x_high = x_high if x_high > x_low else x_low + 1
    settled = [y for line in lines for x, y in line.points if x >= _SETTLING * x_high or chart.names]
    every = [y for line in lines for _, y in line.points]
    ys = settled if len(settled) >= _ENOUGH else every or [0.0, 1.0]
    y_ticks = ticks(0.0 if chart.from_zero else min(ys), max(ys))
    y_low, y_high = y_ticks[0], y_ticks[-1]
    x_ticks = [t for t in ticks(x_low, x_high) if t <= x_high] if not chart.names else range(len(chart.names))

    def across(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    parts = []
    for y in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(y)}" y2="{down(y)}"/>')
        text = escape(number(y, chart.percent))
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{down(y) + 4}" text-anchor="end">{text}</text>')
    for x in x_ticks:
        text = escape(chart.names[int(x)] if chart.names else number(x))
        parts.append(
            f'<text class="tick" x="{across(x)}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{text}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(chart.x_label)}</text>'
    )
    for line in lines:
        parts.append(_drawn(line, [(across(x), down(y)) for x, y in line.points]))
    label = f"{chart.title}: {chart.y_label} by {chart.x_label}, {len(lines)} lines"
    data = {
        "percent": chart.percent,
        "names": list(chart.names),
        "axis": chart.x_label,
        "x": [x_low, x_high],
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "lines": [
            {
                "label": line.label,
                "colour": line.colour,
                "points": [[_brief(x), _brief(y)] for x, y in line.points],
            }
            for line in lines
            if line.style != "level"
        ],
    }
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label, quote=True)}"'
        f' data-chart="{escape(json.dumps(data, allow_nan=False), quote=True)}">'
        f'{"".join(parts)}<line class="cursor" x1="0" x2="0" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/></svg>'
    )


def _brief(value: float) -> float:
    return float(f"{value:.6g}")


def _drawn(line: Line, places: Sequence[tuple[float, float]]) -> str:
    style = line.style.replace("held-out", "marked")
    group = f'<g class="line {style}" style="--c:var(--run{line.colour % COLOURS})" clip-path="url(#plot)">'
    if line.style == "level":
        y = places[0][1]
        return f'{group}<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/></g>'
    path = " ".join(f"{x},{y}" for x, y in places)
    drawn = f'<polyline points="{path}"/>' if len(places) > 1 else ""
    if style in ("marked", "dashed") or len(places) == 1:
        radius = 3 if len(places) <= 40 else 1.5
        drawn += "".join(f'<circle cx="{x}" cy="{y}" r="{radius}"/>' for x, y in places)
    return f"{group}{drawn}</g>"
