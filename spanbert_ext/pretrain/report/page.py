# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML page that needs nothing else: figures, charts, span lengths, examples, options."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from spanbert_ext.files.output import encodable
from spanbert_ext.pages.assets import SCRIPT, STYLE
from spanbert_ext.pages.charts import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Line,
    svg,
)
from spanbert_ext.pretrain.report.figures import figures
from spanbert_ext.pretrain.report.run_reader import Run, differing_options
from spanbert_ext.pretrain.run.evaluations import LENGTHS

GENERATOR = "spanbert-report"
_EXAMPLES = 24  # shown at most


def build_page(runs: Sequence[Run]) -> str:
    """HTML in UTF-8 with style, script, drawings and data in it. The same runs give the same page."""
    title = f"Pre-training: {runs[0].name}" if len(runs) == 1 else f"Pre-training: {len(runs)} runs"
    sections = [
        _head(title, runs),
        _table(runs),
        _charts(runs),
        _lengths(runs),
        _examples(runs),
        _options(runs),
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    plot = f'<rect x="{LEFT}" y="{TOP - 4}" width="{WIDTH - LEFT - RIGHT + 4}" height="{HEIGHT - TOP - BOTTOM + 8}"/>'
    return encodable(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="generator" content="{GENERATOR}">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        '<svg width="0" height="0" style="position:absolute" aria-hidden="true">'
        f'<clipPath id="plot">{plot}</clipPath></svg>'
        + "\n".join(section for section in sections if section)
        + f"\n<script>{SCRIPT}</script>\n</body></html>\n"
    )


def _text(value: Any) -> str:
    return escape(str(value), quote=True)


def _swatch(run: int) -> str:
    return f'<span class="swatch" style="--c:var(--run{run % COLOURS})"></span>'


def _head(title: str, runs: Sequence[Run]) -> str:
    parts = [f"<header><h1>{_text(title)}</h1>"]
    texts = [f"{_corpus(run)} · {_text(run.metrics.get('machine', ''))}".strip(" ·") for run in runs]
    if len(set(texts)) == 1:
        parts.append(f'<p class="soft">{texts[0]}</p>')
    if len(runs) > 1:
        items = (
            f"<li>{_swatch(i)}{_text(run.name)}"
            + (f' <span class="soft">{text}</span>' if len(set(texts)) > 1 else "")
            + "</li>"
            for i, (run, text) in enumerate(zip(runs, texts, strict=True))
        )
        parts.append(f'<ul class="legend">{"".join(items)}</ul>')
    parts += [
        f'<p class="problem">{_text(run.name)}: {_text(problem)}</p>'
        for run in runs
        for problem in run.problems
    ]
    return "".join(parts) + "</header>"


def _corpus(run: Run) -> str:
    corpus = run.metrics.get("corpus") or run.options.get("corpus") or ["the built-in corpus"]
    text = _text(", ".join(map(str, corpus[:3])) + (" …" if len(corpus) > 3 else ""))
    if "documents" in run.metrics:
        text += f" · {run.metrics['documents']:,} documents"
    if {"train_tokens", "held_out_tokens"} <= run.metrics.keys():
        text += f" · {run.metrics['train_tokens']:,} tokens to train on, {run.metrics['held_out_tokens']:,} held out"
    return text


def _table(runs: Sequence[Run]) -> str:
    columns = figures(runs)
    head = "".join(f'<th scope="col" title="{_text(c.meaning)}">{_text(c.title)}</th>' for c in columns)
    rows = []
    for index in range(len(runs)):
        cells = [f"<td>{_swatch(index)}{_text(columns[0].cells[index])}</td>"]
        for column in columns[1:]:
            best = ' class="best"' if index in column.best else ""
            cells.append(f"<td{best}>{_text(column.cells[index])}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    meanings = "; ".join(f"{c.title}: {c.meaning}" for c in columns[3:])
    notes = (
        f'<details><summary>What the columns mean</summary><p class="soft">{_text(meanings)}.</p></details>'
    )
    return f"<h2>Figures</h2>{_scrolled(head, ''.join(rows))}{notes}"


def _scrolled(head: str, body: str, words: bool = False) -> str:
    """A table that scrolls by itself where the page is too narrow. head: cells; body: rows; words: no numbers."""
    thead = f"<thead><tr>{head}</tr></thead>" if head else ""
    kind = "scroll words" if words else "scroll"
    return f'<div class="{kind}" tabindex="0"><table>{thead}<tbody>{body}</tbody></table></div>'


# --- Charts over a run's course ------------------------------------------------------------------------------


def _series(run: Run, name: str) -> list[tuple[float, float]]:
    return [(log["step"], log[name]) for log in run.history if log.get(name) is not None]


def _loss_lines(runs: Sequence[Run], head: str) -> list[Line]:
    lines = []
    for index, run in enumerate(runs):
        label = f"{run.name}, " if len(runs) > 1 else ""
        lines.append(Line(f"{label}training", index, "training", _series(run, f"{head}_loss")))
        lines.append(Line(f"{label}held-out", index, "held-out", _series(run, f"eval_{head}_loss")))
        entropy = run.metrics.get("unigram_entropy")
        if entropy is not None and lines[-1].points:
            lines.append(Line("unigram entropy", index, "level", [(0, entropy)]))
    return lines


def _lines(runs: Sequence[Run], name: str | Callable[[Run], str], style: str) -> list[Line]:
    return [
        Line(run.name, index, style, _series(run, name if isinstance(name, str) else name(run)))
        for index, run in enumerate(runs)
    ]


def _nsp_lines(runs: Sequence[Run]) -> list[Line]:
    lines = _lines(runs, "eval_nsp_accuracy", "held-out")
    for index, run in enumerate(runs):
        majority = _series(run, "eval_nsp_majority_rate")
        if majority:
            lines.append(Line("always the more frequent answer", index, "level", majority[-1:]))
    return lines


def _course(runs: Sequence[Run]) -> list[tuple[str, Chart]]:
    """Every chart of a run's course with a note under its title; the x axis is the step."""

    def law_entry(law: str) -> Callable[[Run], str]:
        return lambda run: "eval_mlm_accuracy" if run.masking == law else f"eval_{law}_mlm_accuracy"

    note = "thin: training; marks: held-out text; dotted: its unigram entropy"
    found = [
        (note, Chart("MLM loss", "step", "nats a token", _loss_lines(runs, "mlm"))),
        (note, Chart("SBO loss", "step", "nats a token", _loss_lines(runs, "sbo"))),
        (
            "held-out pairs told apart; dotted: always the more frequent answer",
            _share("NSP accuracy", _nsp_lines(runs)),
        ),
    ]
    for law in ("spans", "tokens"):
        title, lines = f"MLM accuracy, {law} masked", _lines(runs, law_entry(law), "held-out")
        found.append(("held-out tokens predicted", _share(title, lines)))
    plain = [
        ("Speed", "tokens a second", "tokens_per_second", True),
        ("FLOPs", "TFLOP/s", "tflop_per_second", True),
        ("Memory", "GB at most so far", "memory_gb", True),
        ("Gradient norm", "of the step before clipping", "grad_norm", False),
        ("Learning rate", "", "learning_rate", True),
    ]
    for title, unit, name, from_zero in plain:
        lines = _lines(runs, name, "plain")
        found.append((unit, Chart(title, "step", unit, lines, from_zero=from_zero)))
    mfu = _lines(runs, "mfu", "plain")
    found.insert(6, ("share of the GPU's peak", _share("Utilisation (MFU)", mfu)))
    return [(note, chart) for note, chart in found if any(line.points for line in chart.lines)]


def _share(title: str, lines: Sequence[Line]) -> Chart:
    return Chart(title, "step", "share", lines, percent=True, from_zero=True)


def _charts(runs: Sequence[Run]) -> str:
    charts = _course(runs)
    if not charts:
        return '<p class="soft">Nothing is logged yet.</p>'
    read = [_series(run, "tokens_seen") for run in runs]
    switch = ""
    if all(read):
        switch = (
            "<fieldset><legend hidden>Horizontal axis</legend>"
            '<label><input type="radio" name="axis" checked> by step</label>'
            '<label><input type="radio" name="axis" id="by-tokens"> by tokens read</label></fieldset>'
        )
    drawn = []
    for note, chart in charts:
        variants = f'<div class="by-step">{svg(chart)}</div>'
        if switch:
            lines = [
                Line(line.label, line.colour, line.style, _by_tokens(line.points, read[line.colour]))
                for line in chart.lines
            ]
            by_tokens = Chart(
                chart.title, "tokens read", chart.y_label, lines, (), chart.percent, chart.from_zero
            )
            variants += f'<div class="by-tokens">{svg(by_tokens)}</div>'
        drawn.append(_figure(chart.title, note, variants))
    return f'<h2>Course</h2>{switch}<div class="charts">{"".join(drawn)}</div>'


def _figure(title: str, note: str, drawing: str) -> str:
    return f"<figure><figcaption>{_text(title)}<span>{_text(note)}</span></figcaption>{drawing}</figure>"


def _by_tokens(
    points: Iterable[tuple[float, float]], read: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Points (step, y) as (tokens read, y), between the logged counts `read` (step, tokens) in proportion."""
    points = list(points)
    steps, tokens = zip((0.0, 0.0), *read, strict=True)
    places = np.interp([x for x, _ in points], steps, tokens)
    return [(float(place), y) for place, (_, y) in zip(places, points, strict=True)]


def _lengths(runs: Sequence[Run]) -> str:
    """Accuracy by span length where spans are masked, of each head."""
    lines, counts = [], {}
    names = list(LENGTHS)
    for index, run in enumerate(runs):
        rows = run.laws().get("spans", {}).get("by_span_length") or []
        counts = counts or {row["length"]: row["tokens"] for row in rows}
        for head, style in (("mlm", "held-out"), ("sbo", "dashed")):
            points = [
                (names.index(row["length"]), row[f"{head}_accuracy"])
                for row in rows
                if row.get(f"{head}_accuracy") is not None and row["length"] in LENGTHS
            ]
            label = f"{run.name}, {head.upper()}" if len(runs) > 1 else head.upper()
            lines.append(Line(label, index, style, points))
    if not any(line.points for line in lines):
        return ""
    chart = Chart("", "tokens of the span", "share", lines, names, percent=True, from_zero=True)
    note = "held-out text with spans masked; solid: MLM, dashed: SBO"
    figure = _figure("Accuracy by span length", note, svg(chart))
    head = "<th>tokens of the span</th>" + "".join(f"<th>{name}</th>" for name in names)
    body = (
        "<tr><td>masked tokens</td>"
        + "".join(f"<td>{counts.get(name, 0):,}</td>" for name in names)
        + "</tr>"
    )
    for line in lines:
        values = dict(line.points)
        if values:
            cells = (f"{values[i]:.1%}" if i in values else "" for i in range(len(names)))
            row = "".join(f"<td>{cell}</td>" for cell in cells)
            body += f"<tr><td>{_swatch(line.colour)}{_text(line.label)}</td>{row}</tr>"
    return f'<h2>Span lengths</h2><div class="lengths">{figure}<div>{_scrolled(head, body)}</div></div>'


# --- Examples and options ------------------------------------------------------------------------------------


def _examples(runs: Sequence[Run]) -> str:
    """Masked spans with what each head of each run fills in; a span that several runs masked stands once."""
    found: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for index, run in enumerate(runs):
        for example in run.examples:
            key = (example["before"], example["span"], example["after"])
            found.setdefault(key, {})[index] = example
    if not found:
        return ""
    shared = sorted(found.items(), key=lambda item: -len(item[1]))[:_EXAMPLES]  # stable: the runs' order
    cards = []
    for (before, span, after), by_run in shared:
        rows = []
        for index, example in by_run.items():
            name = f"{_swatch(index)}{_text(runs[index].name)} " if len(runs) > 1 else ""
            for head in ("mlm", "sbo"):
                if example.get(head):
                    right, tokens = example.get(f"{head}_right", 0), example["tokens"]
                    mark = ' class="right"' if right == tokens else ""
                    rows.append(f"<dt>{name}{head.upper()}</dt><dd{mark}>{_text(example[head])}</dd>")
                    rows.append(f'<dd class="soft">{_text(right)}/{_text(tokens)}</dd>')
        text = f"{_text(before)}{_gap(span)}<mark>{_text(span.removeprefix('##'))}</mark>"
        text += f"{_gap(after)}{_text(after.removeprefix('##'))}"
        cards.append(f'<article class="example"><p>{text}</p><dl>{"".join(rows)}</dl></article>')
    note = "Held-out text; marked: what was masked; below: what each head fills in, and how many tokens are right."
    return f'<h2>Masked spans</h2><p class="soft">{note}</p><div class="examples">{"".join(cards)}</div>'


def _gap(text: str) -> str:
    """What stands before a piece of text: nothing where it goes on inside a word."""
    return "" if text.startswith("##") else " "


def _options(runs: Sequence[Run]) -> str:
    parts = ["<h2>Options</h2>"]
    if len(runs) > 1:
        rows = differing_options(runs)
        head = "<th>option</th>" + "".join(f"<th>{_text(run.name)}</th>" for run in runs)
        body = "".join(
            f"<tr><td>{_text(name)}</td>{''.join(f'<td>{_value(value)}</td>' for value in values)}</tr>"
            for name, values in rows.items()
        )
        table = _scrolled(head, body, words=True)
        parts.append(f"<p>What differs:</p>{table}" if rows else "<p>The runs have the same options.</p>")
    for index, run in enumerate(runs):
        rest = {
            name: value
            for name, value in run.metrics.items()
            if name in ("versions", "machine", "corpus_digest")
        }
        rows = "".join(
            f"<tr><td>{_text(name)}</td><td>{_value(value)}</td></tr>"
            for name, value in (run.options | rest).items()
        )
        parts.append(
            f"<details><summary>{_swatch(index)}{_text(run.name)}</summary>"
            f"{_scrolled('', rows, words=True)}</details>"
        )
    return "".join(parts)


def _value(value: Any) -> str:
    return _text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
