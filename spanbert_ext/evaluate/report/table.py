# SPDX-License-Identifier: Apache-2.0
"""The tables of the terminal, and how numbers with intervals are written."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spanbert_ext.evaluate.statistics.compare import Comparison, Difference, Interval

if TYPE_CHECKING:
    from spanbert_ext.evaluate.report.summary import Section


CONSTANT = "a constant answer"
# Facts of a training in which a comparison is fair where they are equal: tokenizers, sizes and positions differ.
_EQUAL = (
    "updates",
    "learning_rates",
    "tokens_of_a_row",
    "tokens_of_a_window",
    "tokens_of_a_segment",
    "reads_without_a_state",
)


def score(value: float, interval: Interval) -> str:
    """`71.2 [69.8, 72.5]`"""
    return f"{_number(value)} [{_number(interval.low)}, {_number(interval.high)}]"


def change(value: float, interval: Interval) -> str:
    """`+1.3 [+0.2, +2.4]`"""
    return f"{_number(value, '+')} [{_number(interval.low, '+')}, {_number(interval.high, '+')}]"


def verdict(difference: Difference, comparison: Comparison, constant: float) -> str:
    """What a difference tells, in words. constant: what the same answer to every item reaches."""
    if not difference.separated:
        return "not separated"
    found = f"{_higher(difference)} higher"
    return found if is_win(difference, comparison, constant) else f"{found}, but not above a constant answer"


def is_win(difference: Difference, comparison: Comparison, constant: float) -> bool:
    """Whether a difference is more than noise, and the interval of its higher side above a constant answer."""
    higher = _higher(difference)
    (own,) = (estimate.interval for estimate in comparison.estimates if estimate.checkpoint == higher)
    return difference.separated and own.low > constant


def _higher(difference: Difference) -> str:
    return difference.first if difference.value > 0 else difference.second


def probability(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.1f}" if math.isfinite(value) else "?"


def fact(value: Any) -> str:
    """A fact of a training, an option, or a version."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name or 'all'} {fact(x)}" for name, x in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def terminal_tables(sections: Sequence[Section], width: int | None = None) -> str:
    """width: columns of the terminal, within which tables stay as far as they can; None: of no limit."""
    return "\n\n".join(_terminal_section(section, width or sys.maxsize) for section in sections)


def _terminal_section(section: Section, width: int) -> str:
    first = section.comparisons[0]
    percent = f"{first.level:.0%}".replace("%", " %")
    head = f"{section.name}: {first.items:,} {section.items}"
    if first.clusters != first.items:
        head += f" of {first.clusters:,} {section.clusters}"
    lines = [head, "", *_scores(section, percent, width)]
    if first.differences:
        lines += ["", *_differences(section, percent, width)]
    lines += ["", *notes(section)]
    return "\n".join(lines)


def _scores(section: Section, percent: str, width: int) -> list[str]:
    """A line a checkpoint, or where that is too wide one for each of its metrics."""
    rows = [
        [
            estimate.checkpoint,
            *(score(c.estimates[place].value, c.estimates[place].interval) for c in section.comparisons),
        ]
        for place, estimate in enumerate(section.comparisons[0].estimates)
    ]
    rows.append([CONSTANT, *(_number(section.constant_answer[c.metric]) for c in section.comparisons)])
    metrics = [comparison.metric for comparison in section.comparisons]
    lines = _aligned([[f"{percent} intervals", *metrics], *rows])
    if len(lines[1]) <= width:
        return lines
    long = [
        [name, metric, cell] for name, *cells in rows for metric, cell in zip(metrics, cells, strict=True)
    ]
    return _aligned([["", "", f"{percent} intervals"], *long])


def _differences(section: Section, percent: str, width: int) -> list[str]:
    """A line a pair and metric, or where that is too wide one for each metric below the pair."""
    rows: dict[str, list[list[str]]] = {}
    for comparison in section.comparisons:
        for difference in comparison.differences:
            rows.setdefault(f"{difference.first} - {difference.second}", []).append(
                [
                    comparison.metric,
                    change(difference.value, difference.interval),
                    probability(difference.p_value),
                    probability(difference.holm_p_value),
                    verdict(difference, comparison, section.constant_answer[comparison.metric]),
                ]
            )
    head = ["", f"{percent} interval", "p", "Holm's p", ""]
    by_metric = [
        [pair, *own[place]] for place in range(len(section.comparisons)) for pair, own in rows.items()
    ]
    lines = _aligned([["difference", *head], *by_metric])
    if max(map(len, lines)) <= width:
        return lines
    lines = _aligned([head, *(row for own in rows.values() for row in own)])
    found, below = lines[:2], lines[2:]
    for pair, own in rows.items():
        found += [pair, *(f"  {line}" for line in below[: len(own)])]
        below = below[len(own) :]
    return [f"  {line}" for line in found[:2]] + found[2:]


def notes(section: Section) -> list[str]:
    """What a reader of the numbers must know."""
    found = list(dict.fromkeys(_covers(comparison) for comparison in section.comparisons))
    found += [f"Left out: {reason}." for reason in section.left_out]
    for name in _EQUAL:
        values = {training.checkpoint: fact(training.facts.get(name)) for training in section.trainings}
        if len(set(values.values())) > 1:
            shown = "; ".join(f"{checkpoint} {value or 'none'}" for checkpoint, value in values.items())
            found.append(f"Checkpoints differ in {name.replace('_', ' ')}: {shown}.")
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
