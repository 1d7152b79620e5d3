# SPDX-License-Identifier: Apache-2.0
"""The page of a study: README.md with tables, evidence.json with their numbers, and plots."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spanbert_ext.evaluate.statistics.compare import Comparison, Difference
from support.evidence import findings, plots
from support.evidence.findings import LOSS, Finding, verdict
from support.evidence.plan import Plan
from support.evidence.studies import ORIGINS, START
from support.machine import commit, machine, versions
from support.memory import MEGABYTE
from support.report import write_json
from support.tables import markdown_table

MARK = "<!-- Written by benchmarks/evidence.py. -->"
DATA_FILE, PAGE_FILE = "evidence.json", "README.md"
CHAPTERS = {
    "mask laws": (
        "Filling in",
        "Every masked language model fills in the same held-out rows, masked by single tokens and by spans. A loss"
        " depends on what is masked: the losses of trainings under different masks say nothing of each other, these"
        " tables do. The rows are of one segment, which the systems that were trained on pairs have seen less of.",
    ),
    "probes": (
        "Probes",
        "What a small classifier reads from the frozen encoder's states of a span's ends (coreference, relations,"
        " mentions) or of the tokens just outside it (length, words). Nothing is masked: the encoder reads the span"
        " too. The span-boundary objective trains those outer states to tell the words of spans that are masked, so"
        " these two check whether they hold more of a span that was read: the mechanism, and not its use. The dotted"
        " line: the same answer to every item.",
    ),
    "tasks": ("Tasks", "The whole model fine-tuned, every system on the same folds under the same seeds."),
}
PAPER_TOKENS = 2.4e6 * 256 * 512  # updates, rows, tokens a row (section 4.2)
PLOTS = {"mask laws": "filling-in.png", "probes": "probes.png", "tasks": "tasks.png"}
LENGTHS_PLOT = "span-lengths.png"


def write_page(plan: Plan, folder: Path) -> Path | None:
    """Writes the page of what there is; None where there is nothing. Raises `ResultsError`, `OSError`, and
    `FileExistsError` for a page that this program did not write."""
    found = [*findings.mask_laws(plan), *findings.evaluations(plan)]
    trained = findings.trainings(plan)
    if not trained:
        return None
    page = folder / PAGE_FILE
    if page.exists() and MARK not in page.read_text():
        raise FileExistsError(f"{page} was not written by this program")
    folder.mkdir(parents=True, exist_ok=True)
    chapters = {kind: [own for own in found if own.kind == kind] for kind in CHAPTERS}
    for kind, own in chapters.items():
        if own:
            plots.plot_scores(folder / PLOTS[kind], own)
    lengths = findings.accuracy_by_length(plan)
    if lengths:
        plots.plot_lengths(folder / LENGTHS_PLOT, lengths)
    costs = findings.costs(plan)
    record = {
        "part": plan.study.name,
        "study": dataclasses.asdict(plan.study),
        "findings": [dataclasses.asdict(own) for own in found],
        "accuracy_by_length": {
            name: {length: dataclasses.asdict(own) for length, own in by_length.items()}
            for name, by_length in lengths.items()
        },
        "trainings": {name: [_kept(run) for run in runs] for name, runs in trained.items()},
        "costs": costs,
        "machine": machine(torch.device(plan.study.device)),
        "versions": versions(("transformers", "tokenizers", "numpy")),
        "commit": commit(),
    }
    write_json(folder / DATA_FILE, record)
    lines = [f"# {plan.study.title}", MARK, "", *_opening(plan, trained), "", *_separated(found)]
    for kind, (title, says) in CHAPTERS.items():
        if chapters[kind]:
            lines += ["", f"## {title}", "", says, "", f"![{title}]({PLOTS[kind]})"]
            lines += [line for own in chapters[kind] for line in _section(own)]
            if kind == "mask laws" and lengths:
                lines += ["", f"![Accuracy by the length of the span]({LENGTHS_PLOT})"]
    lines += ["", *_training(trained), *_cost(costs), *_how(plan, trained, record)]
    page.write_text("\n".join(lines) + "\n")
    return page


def _kept(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in metrics.items()
        if name not in ("options", "corpus", "held_out_at_start")
    }


def _opening(plan: Plan, trained: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    runs = [run for name, own in trained.items() if name != START for run in own]
    if not runs:
        return ["No system is trained yet."]
    seen = sorted(run["tokens_seen"] for run in runs)
    seeds = max(len(own) for own in trained.values())
    tokens = (
        f"{seen[0] / 1e6:.1f} M"
        if seen[-1] - seen[0] < 5e4
        else f"{seen[0] / 1e6:.1f} to {seen[-1] / 1e6:.1f} M"
    )
    speaks = (
        "One training of each system: what is separated here speaks of these checkpoints, and not of what the systems"
        " would be under another seed, of another size, or on more text."
        if seeds == 1
        else f"{seeds} trainings of each system: what is separated speaks of systems trained so, and not of another"
        " size or more text."
    )
    times = PAPER_TOKENS / seen[-1]
    opening = [
        f"The paper's four systems, alike in size, text, number of tokens ({tokens} each), updates and seed."
    ]
    if START in trained:
        before = trained[START][0]["tokens_seen"] / 1e6
        opening.append(
            f"All go on from one checkpoint, `{START}`: {ORIGINS[plan.study.model]}, trained on {before:.1f} M tokens"
            " first, as Our BERT-1seq. It stands beside them as it was then."
        )
    return [
        *opening,
        f"{speaks} The paper's models read {times:,.0f} times as much: their order is neither confirmed nor"
        " refuted here.",
    ]


def _separated(found: Sequence[Finding]) -> Iterator[str]:
    """Every data set in a line: which differences of its first metric are more than noise."""
    if not found:
        return
    yield "## What is separated"
    yield ""
    for own in found:
        comparison = own.comparisons[-1 if own.kind == "mask laws" else 0]
        apart = [
            f"{d.first} and {d.second}: {verdict(own, comparison, d)} ({_change(d)})"
            for d in comparison.differences
            if d.separated
        ]
        rest = len(comparison.differences) - len(apart)
        if rest:
            apart.append(f"{rest} of {rest + len(apart)} pairs not separated")
        if own.kind == "tasks" and all(estimate.runs == 1 for estimate in comparison.estimates):
            apart.append(
                "each fine-tuned once: of these models alone, another seed may turn their order round"
            )
        constant = own.constant.get(comparison.metric)
        if constant is not None and all(e.interval.low <= constant for e in comparison.estimates):
            apart.append(f"no system above the same answer to all ({constant:.1f})")
        yield f"* **{own.title}**, {comparison.metric}: {'; '.join(apart)}."


def _section(own: Finding) -> Iterator[str]:
    names = [comparison.metric for comparison in own.comparisons]
    yield f"\n### {own.title[0].upper()}{own.title[1:]}\n"
    yield f"{own.items}.\n"
    rows = [
        [estimate.checkpoint, *(_score(comparison, place) for comparison in own.comparisons)]
        for place, estimate in enumerate(own.comparisons[0].estimates)
    ]
    if own.constant:
        rows.append(["the same answer to all", *(_constant(own, name) for name in names)])
    yield markdown_table(["95 % intervals", *names], rows)
    rows = []
    for place, d in enumerate(own.comparisons[0].differences):
        cells = []
        for comparison in own.comparisons:
            difference = comparison.differences[place]
            cells.append(f"{_change(difference, comparison)} {verdict(own, comparison, difference)}")
        rows.append([f"{d.first} - {d.second}", *cells])
    yield "\n<details><summary>Differences, intervals after Holm's correction</summary>\n"
    yield markdown_table(["difference", *names], rows)
    yield f"\n{own.comparisons[0].covers.rstrip('.')}.\n\n</details>"


def _constant(own: Finding, metric: str) -> str:
    return f"{own.constant[metric]:.1f}" if metric in own.constant else "-"


def _digits(comparison: Comparison | None) -> int:
    return 3 if comparison is not None and comparison.metric == LOSS.name else 1


def _score(comparison: Comparison, place: int) -> str:
    own, digits = comparison.estimates[place], _digits(comparison)
    return f"{own.value:.{digits}f} [{own.interval.low:.{digits}f}, {own.interval.high:.{digits}f}]"


def _change(d: Difference, comparison: Comparison | None = None) -> str:
    """With its interval after Holm's correction."""
    digits = _digits(comparison)
    return f"{d.value:+.{digits}f} [{d.holm_interval.low:+.{digits}f}, {d.holm_interval.high:+.{digits}f}]"


def _training(trained: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    yield "## Training\n"
    header = ["", "updates", "M tokens", "held-out MLM loss, own masks", "SBO loss", "NSP right"]
    rows = []
    for name, runs in trained.items():
        for run in runs:
            nsp = f"{run['eval_nsp_accuracy']:.1%}".replace("%", " %") if "eval_nsp_accuracy" in run else "-"
            sbo = f"{run['eval_sbo_loss']:.3f}" if "eval_sbo_loss" in run else "-"
            label = name if len(runs) == 1 else f"{name}, seed {run['seed']}"
            tokens = f"{run['tokens_seen'] / 1e6:.2f}"
            rows.append([label, f"{run['steps']:,}", tokens, f"{run['eval_mlm_loss']:.3f}", sbo, nsp])
    yield markdown_table(header, rows)
    entropy = next(iter(trained.values()))[0]["unigram_entropy"]
    yield f"\nWithout context no model has a lower expected loss than {entropy:.3f}, the text's unigram entropy.\n"


def _cost(costs: Mapping[str, Sequence[Mapping[str, float]]]) -> Iterator[str]:
    if not costs:
        return
    yield "## Cost\n"
    rows = []
    for name, rounds in costs.items():
        rates = [own["tokens_per_second"] for own in rounds]
        peak = statistics.median(own["peak_bytes"] for own in rounds) / MEGABYTE
        each = ", ".join(f"{rate:,.0f}" for rate in rates)
        rows.append([name, f"{statistics.median(rates):,.0f}", each, f"{peak:,.0f}"])
    yield markdown_table(["training", "tokens a second", "in each round", "peak MB of the process"], rows)
    yield ""


def _how(plan: Plan, trained: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[str]:
    study, where = plan.study, record["machine"]
    facts = next(iter(trained.values()))[0]
    unit = facts["held_out_unit"]
    named = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    device = where.get("gpu") or f"{where['cpu']}, {where['cores']} cores, {where['cpu_capability']}"
    yield "## How\n"
    held_out = f"{facts['held_out_' + unit]:,} {unit}"
    # rows of pairs hold a document's tokens once a pass
    tokens = min(run["train_tokens"] for runs in trained.values() for run in runs)
    yield f"* Text: {facts['documents']:,} documents, {tokens:,} tokens to train on, {held_out} held out;"
    yield f"  vocabulary: {f'{study.vocab_size:,} pieces' if study.vocab_size else 'that of the start'}."
    yield f"* Updates of {study.tokens_per_batch:,} tokens in rows of at most 128, peak rate {study.learning_rate:g};"
    yield "  `benchmarks/support/evidence/studies.py` has the rest."
    yield f"* Machine: {device}; {named}; commit {record['commit']}."
    yield f"* Again: `python benchmarks/evidence.py {study.name} --corpus TEXT --data DIR`, whose text and data"
    yield "  `docs/guides/evaluation.md` names."
