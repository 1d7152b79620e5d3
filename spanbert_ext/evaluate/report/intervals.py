# SPDX-License-Identifier: Apache-2.0
"""Scores and differences as drawn intervals: inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from spanbert_ext.pages.charts import COLOURS, number, ticks

WIDTH, ROW, TOP, BOTTOM, LEFT, RIGHT = 520, 30, 8, 34, 170, 16


@dataclass(frozen=True)
class Bar:
    """A value with its interval, and the single values that it is the mean of."""

    label: str
    colour: int
    value: float
    low: float
    high: float
    points: Sequence[float] = ()


def svg(title: str, bars: Sequence[Bar], unit: str, zero: bool = False, constant: float | None = None) -> str:
    """A row a bar; with `zero` a line stands at 0, which an interval may hold, and a dashed one at `constant`."""
    known = [
        x
        for bar in bars
        for x in (
            bar.value,
            bar.low,
            bar.high,
            *bar.points,
            *[0.0] * zero,
            *[constant] * (constant is not None),
        )
        if math.isfinite(x)
    ]
    marks = ticks(min(known, default=0.0), max(known, default=1.0))
    low, high = marks[0], marks[-1]
    height = TOP + ROW * len(bars) + BOTTOM

    def across(x: float) -> float:
        return round(LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    parts = []
    for mark in marks:
        x = across(mark)
        kind = "zero" if zero and mark == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{x}" x2="{x}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(f'<text x="{x}" y="{height - BOTTOM + 16}" text-anchor="middle">{number(mark)}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 3}" text-anchor="middle">{escape(unit)}</text>'
    )
    if constant is not None:
        x = across(constant)
        parts.append(f'<line class="zero dashed" x1="{x}" x2="{x}" y1="{TOP}" y2="{height - BOTTOM}"/>')
    for place, bar in enumerate(bars):
        y = TOP + ROW * place + ROW / 2
        label = bar.label if len(bar.label) <= 26 else f"{bar.label[:25]}…"
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{escape(label)}</text>')
        drawn = "".join(
            f'<circle class="single" cx="{across(x)}" cy="{y + 8}" r="2.5"/>'
            for x in bar.points
            if math.isfinite(x)
        )
        if math.isfinite(bar.low) and math.isfinite(bar.high):
            drawn += f'<line x1="{across(bar.low)}" x2="{across(bar.high)}" y1="{y}" y2="{y}"/>'
        if math.isfinite(bar.value):
            drawn += f'<circle class="mean" cx="{across(bar.value)}" cy="{y}" r="5"/>'
        parts.append(
            f'<g class="interval" style="--c:var(--run{bar.colour % COLOURS})">'
            f"<title>{escape(bar.label)}: {bar.value:.2f} [{bar.low:.2f}, {bar.high:.2f}]</title>{drawn}</g>"
        )
    label = escape(f"{title}: {len(bars)} intervals", quote=True)
    box = f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}"'
    return f'<svg class="intervals" {box}>{"".join(parts)}</svg>'


STYLE = """
svg.intervals { display: block; width: 100%; height: auto; }
svg.intervals .zero { stroke: var(--soft); stroke-width: 1.5; }
svg .interval line { stroke: var(--c); stroke-width: 3; }
svg .interval .mean { fill: var(--c); }
svg .interval .single { fill: none; stroke: var(--c); opacity: .7; }
td.separated { font-weight: 700; }
.scroll + .charts, .scroll + p { margin-top: 14px; }
"""
