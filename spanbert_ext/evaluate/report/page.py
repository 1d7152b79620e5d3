# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from spanbert_ext.evaluate.report.intervals import STYLE as INTERVAL_STYLE
from spanbert_ext.evaluate.report.intervals import Bar, svg
from spanbert_ext.evaluate.report.table import (
    CONSTANT,
    change,
    fact,
    is_win,
    notes,
    probability,
    score,
    verdict,
)
from spanbert_ext.evaluate.statistics.compare import Comparison
from spanbert_ext.files.wording import duration
from spanbert_ext.pages.assets import STYLE
from spanbert_ext.pages.charts import COLOURS

if TYPE_CHECKING:
    from spanbert_ext.evaluate.report.summary import Section, Training

GENERATOR = "spanbert-evaluate"


def build_page(sections: Sequence[Section], about: Mapping[str, Any]) -> str:
    """HTML with style and drawings in it. The same results give the same page."""
    title = f"Evaluation: {about['task']} on {', '.join(section.name for section in sections)}"
    body = [_head(title, sections, about), *(_section(section) for section in sections), _about(about)]
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="generator" content="{GENERATOR}">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{_text(title)}</title><style>{STYLE}{INTERVAL_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _text(value: Any) -> str:
    return escape(str(value), quote=True)


def _swatch(place: int) -> str:
    return f'<span class="swatch" style="--c:var(--run{place % COLOURS})"></span>'


def _head(title: str, sections: Sequence[Section], about: Mapping[str, Any]) -> str:
    names = dict.fromkeys(estimate.checkpoint for s in sections for estimate in s.comparisons[0].estimates)
    items = "".join(f"<li>{_swatch(place)}{_text(name)}</li>" for place, name in enumerate(names))
    level = f"{about['level']:.0%}".replace("%", " %")
    seeds = f"{about['seeds']} fine-tuning seed{'s'[: about['seeds'] - 1]}"
    note = f"{seeds}; {level} intervals; {about['precision']} on {about['device']}"
    return f'<header><h1>{_text(title)}</h1><p class="soft">{_text(note)}</p><ul class="legend">{items}</ul></header>'


def _section(section: Section) -> str:
    first = section.comparisons[0]
    count = f"{first.items:,} {section.items}"
    if first.clusters != first.items:
        count += f" of {first.clusters:,} {section.clusters}"
    parts = [f"<h2>{_text(section.name)}</h2>", f'<p class="soft">{_text(count)}</p>', _scores(section)]
    parts.append('<div class="charts">')
    parts += [_drawn_scores(c, section.constant_answer[c.metric]) for c in section.comparisons]
    if first.differences:
        parts += [_drawn_differences(comparison) for comparison in section.comparisons]
    parts.append("</div>")
    if first.differences:
        parts.append(_differences(section))
    parts += [f'<p class="soft">{_text(note)}</p>' for note in notes(section)]
    parts.append(_trainings(section.trainings))
    return "".join(parts)


def _table(head: Sequence[str], rows: Sequence[str], words: bool = False) -> str:
    cells = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in head)
    thead = f"<thead><tr>{cells}</tr></thead>" if head else ""
    kind = "scroll words" if words else "scroll"
    return f'<div class="{kind}" tabindex="0"><table>{thead}<tbody>{"".join(rows)}</tbody></table></div>'


def _scores(section: Section) -> str:
    head = ["", *(comparison.metric for comparison in section.comparisons), "runs"]
    rows = []
    for place, estimate in enumerate(section.comparisons[0].estimates):
        cells = "".join(
            f"<td>{_text(score(c.estimates[place].value, c.estimates[place].interval))}</td>"
            for c in section.comparisons
        )
        rows.append(
            f"<tr><td>{_swatch(place)}{_text(estimate.checkpoint)}</td>{cells}<td>{estimate.runs}</td></tr>"
        )
    cells = "".join(f"<td>{section.constant_answer[c.metric]:.1f}</td>" for c in section.comparisons)
    rows.append(f'<tr><td class="soft">{CONSTANT}</td>{cells}<td></td></tr>')
    return _table(head, rows)


def _drawn_scores(comparison: Comparison, constant: float) -> str:
    """What a constant answer reaches is drawn where an interval begins below it; elsewhere it would only take room."""
    bars = [
        Bar(e.checkpoint, place, e.value, e.interval.low, e.interval.high, e.seed_values)
        for place, e in enumerate(comparison.estimates)
    ]
    note = f"mean and interval; circles: {comparison.estimates[0].seeds}"
    is_near = any(bar.low <= constant for bar in bars)
    return _figure(
        comparison.metric,
        f"{note}; dashed: {CONSTANT}" if is_near else note,
        svg(comparison.metric, bars, comparison.metric, constant=constant if is_near else None),
    )


def _drawn_differences(comparison: Comparison) -> str:
    places = {estimate.checkpoint: place for place, estimate in enumerate(comparison.estimates)}
    bars = [
        Bar(f"{d.first} - {d.second}", places[d.first], d.value, d.holm_interval.low, d.holm_interval.high)
        for d in comparison.differences
    ]
    title = f"{comparison.metric}, differences"
    note = "intervals after Holm's correction: not separated where they hold 0"
    return _figure(title, note, svg(title, bars, comparison.metric, zero=True))


def _figure(title: str, note: str, drawing: str) -> str:
    return f"<figure><figcaption>{_text(title)}<span>{_text(note)}</span></figcaption>{drawing}</figure>"


def _differences(section: Section) -> str:
    head = ["difference", "metric", "of this pair alone", "after Holm", "p", "Holm's p", ""]
    rows = []
    for comparison in section.comparisons:
        for d in comparison.differences:
            constant = section.constant_answer[comparison.metric]
            kind = ' class="separated"' if is_win(d, comparison, constant) else ""
            cells = [
                comparison.metric,
                change(d.value, d.interval),
                change(d.value, d.holm_interval),
                probability(d.p_value),
                probability(d.holm_p_value),
            ]
            row = "".join(f"<td>{_text(cell)}</td>" for cell in cells)
            row += f"<td{kind}>{_text(verdict(d, comparison, constant))}</td>"
            rows.append(f"<tr><td>{_text(d.first)} - {_text(d.second)}</td>{row}</tr>")
    return f"<h3>Differences</h3>{_table(head, rows)}"


def _trainings(trainings: Sequence[Training]) -> str:
    names = list(dict.fromkeys(name for training in trainings for name in training.facts))
    names = [name for name in names if name not in ("training_seconds", "diverged")]
    head = ["", "runs", "diverged", "a training took", *(name.replace("_", " ") for name in names)]
    rows = []
    for place, training in enumerate(trainings):
        took = "" if training.seconds is None else duration(training.seconds)
        cells = [
            training.runs,
            training.diverged,
            took,
            *(fact(training.facts.get(name)) for name in names),
        ]
        row = "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        rows.append(f"<tr><td>{_swatch(place)}{_text(training.checkpoint)}</td>{row}</tr>")
    return (
        f"<details><summary>Training</summary>{_table(head, rows)}"
        '<p class="soft">Behind the time: facts of the first run.</p></details>'
    )


def _about(about: Mapping[str, Any]) -> str:
    rows = []
    for checkpoint in about["checkpoints"]:
        seed = (
            f", pre-training seed {checkpoint['pretraining_seed']}" if checkpoint["pretraining_seed"] else ""
        )
        rows.append((f"{checkpoint['name']}{seed}", f"{checkpoint['folder']} ({checkpoint['digest'][:16]})"))
    rest = {
        name: value for name, value in about.items() if name not in ("checkpoints", "options", "versions")
    }
    rows += [*rest.items(), *about["options"].items(), *about["versions"].items()]
    body = [f"<tr><td>{_text(name)}</td><td>{_text(fact(value))}</td></tr>" for name, value in rows]
    return f"<h2>How</h2>{_table((), body, words=True)}"
