"""The tables of the terminal, and how numbers with intervals are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from spanbert_ext.evaluate.statistics.compare import Comparison, Difference, Interval

if TYPE_CHECKING:
    from spanbert_ext.evaluate.report.summary import Section


def score(value: float, interval: Interval) -> str:
    """`71.2 [69.8, 72.5]`"""
    return f"{_number(value)} [{_number(interval.low)}, {_number(interval.high)}]"


def change(value: float, interval: Interval) -> str:
    """`+1.3 [+0.2, +2.4]`"""
    return f"{_number(value, '+')} [{_number(interval.low, '+')}, {_number(interval.high, '+')}]"


def verdict(difference: Difference) -> str:
    """Whether a difference is more than noise, in words."""
    if not difference.separated:
        return "not separated"
    higher = difference.first if difference.value > 0 else difference.second
    return f"{higher} higher"


def probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.1f}" if math.isfinite(value) else "?"


def terminal_tables(sections: Sequence[Section]) -> str:
    return "\n\n".join(_terminal_section(section) for section in sections)


def _terminal_section(section: Section) -> str:
    comparisons = section.comparisons
    first = comparisons[0]
    percent = f"{first.level:.0%}".replace("%", " %")
    head = f"{section.name}: {first.items:,} {section.items}"
    if first.clusters != first.items:
        head += f" of {first.clusters:,} {section.clusters}"
    lines = [head, ""]
    rows = [[f"{percent} intervals", *(comparison.metric for comparison in comparisons)]]
    for place, estimate in enumerate(first.estimates):
        cells = [score(c.estimates[place].value, c.estimates[place].interval) for c in comparisons]
        rows.append([estimate.checkpoint, *cells])
    lines += _aligned(rows)
    if first.differences:
        rows = [["difference", "", f"{percent} interval", "p", "Holm's p", ""]]
        for comparison in comparisons:
            for difference in comparison.differences:
                rows.append(
                    [
                        f"{difference.first} - {difference.second}",
                        comparison.metric,
                        change(difference.value, difference.interval),
                        probability(difference.p_value),
                        probability(difference.holm_p_value),
                        verdict(difference),
                    ]
                )
        lines += ["", *_aligned(rows)]
    lines += ["", *notes(section)]
    return "\n".join(lines)


def notes(section: Section) -> list[str]:
    """What a reader of the numbers must know."""
    found = list(dict.fromkeys(_covers(comparison) for comparison in section.comparisons))
    if constant := section.trainings[0].facts.get("constant_answer") if section.trainings else None:
        reached = ", ".join(f"{name} {_number(value)}" for name, value in constant.items())
        found.append(f"The same answer to every item reaches at best {reached}.")
    for training in section.trainings:
        if training.diverged:
            found.append(
                f"{training.diverged} of {training.runs} runs of {training.checkpoint} diverged;"
                " they count as they are."
            )
    return found


def _covers(comparison: Comparison) -> str:
    text = comparison.covers.strip()
    return text if text.endswith(".") else f"{text}."


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return [lines[0], "  ".join("-" * width for width in widths if width), *lines[1:]]
