# SPDX-License-Identifier: Apache-2.0
"""What a study has found by now, in one form: scores of the systems with intervals, and differences."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spanbert_ext.evaluate.report import table
from spanbert_ext.evaluate.scores.metric import SumMetric, ratio
from spanbert_ext.evaluate.scores.rows import ItemRow
from spanbert_ext.evaluate.statistics.compare import Comparison, Difference, Estimate, Interval, compare
from spanbert_ext.evaluate.statistics.results import MetricError, Results
from spanbert_ext.pretrain.run.evaluations import LENGTHS, SHARED_LAWS
from support.evidence.plan import ROUNDS, Plan
from support.evidence.studies import START, SYSTEMS


def _tokens(rows: np.ndarray) -> np.ndarray:
    return rows[:, 2]


ACCURACY = SumMetric(
    "accuracy", lambda rows: rows, lambda sums: ratio(sums[..., 1], sums[..., 2]), sizes=_tokens
)
# A metric's unit is a hundredth; a loss is told in nats.
LOSS = SumMetric(
    "loss", lambda rows: rows / [100, 1, 1], lambda sums: ratio(sums[..., 0], sums[..., 2]), sizes=_tokens
)


# What a task is called, beside the probes of the same kind.
FINE_TUNED = {
    "qa": "question answering",
    "coref": "coreference, fine-tuned",
    "relation": "relations, fine-tuned",
    "glue": "GLUE",
}


@dataclass(frozen=True)
class Finding:
    """Scores on one data set. comparisons: one a metric. constant: by metric what the same answer to every item reaches
    at best."""

    title: str
    kind: str
    items: str
    comparisons: Sequence[Comparison]
    constant: Mapping[str, float] = dataclasses.field(default_factory=dict)


def verdict(finding: Finding, comparison: Comparison, difference: Difference) -> str:
    """What a difference tells, in words: of a loss, which is better where it is lower, as of any score."""
    if comparison.metric == LOSS.name and difference.separated:
        return f"{difference.second if difference.value > 0 else difference.first} lower"
    return table.verdict(difference, comparison, finding.constant.get(comparison.metric, -math.inf))


def _read_comparison(summary: Mapping[str, Any]) -> Comparison:
    """A comparison as `spanbert-evaluate` wrote it to its summary.json."""

    def read(kind: type, own: Mapping[str, Any], *intervals: str) -> Any:
        values = {name: tuple(x) if isinstance(x, list) else x for name, x in own.items()}
        return kind(**values | {name: Interval(**own[name]) for name in intervals})

    estimates = tuple(read(Estimate, own, "interval") for own in summary["estimates"])
    differences = tuple(read(Difference, own, "interval", "holm_interval") for own in summary["differences"])
    return Comparison(**summary | {"estimates": estimates, "differences": differences})


def evaluations(plan: Plan) -> Iterator[Finding]:
    for evaluation in plan.study.evaluations:
        path = plan.summary_file(evaluation)
        if not path.exists():
            continue
        for data in json.loads(path.read_text())["data"]:
            comparisons = [_read_comparison(own) for own in data["comparisons"]]
            first = comparisons[0]
            items = f"{first.items:,} {data['items']}"
            if first.clusters != first.items:
                items += f" of {first.clusters:,} {data['clusters']}"
            runs = first.estimates[-1].runs  # a start, which is the first of them, is trained once
            items += f"; {runs} runs of each system" if runs > 1 else "; one run of each system"
            items += "".join(f"; left out: {reason}" for reason in data.get("left_out", ()))
            name = (
                data["name"]
                if evaluation.task == "probe"
                else f"{FINE_TUNED[evaluation.task]}, {data['name']}"
            )
            yield Finding(name, evaluation.kind, items, comparisons, data["constant_answer"])


def _law_sums(plan: Plan) -> dict[tuple[str, int], Mapping[str, Any]]:
    return {
        (system, seed): json.loads(plan.mask_law_file(system, seed).read_text())
        for system, seed in plan.checkpoints()
        if plan.mask_law_file(system, seed).exists()
    }


def mask_laws(plan: Plan) -> list[Finding]:
    """Of every law the loss and the accuracy of every system on the held-out documents."""
    sums, found = _law_sums(plan), []
    for law in SHARED_LAWS if sums else ():
        results = Results()
        for (system, seed), laws in sums.items():
            rows = [
                ItemRow(document, document, tuple(np.sum(own, axis=0))) for document, own in laws[law].items()
            ]
            results.add(SYSTEMS[system], str(seed), 0, 0, rows)
        comparisons = [compare(results, metric) for metric in (LOSS, ACCURACY)]
        tokens = int(sum(np.sum(own, axis=0)[2] for own in next(iter(sums.values()))[law].values()))
        items = f"{tokens:,} masked tokens of {comparisons[0].items} documents"
        found.append(Finding(f"{law} masked", "mask laws", items, comparisons))
    return found


def accuracy_by_length(plan: Plan) -> dict[str, dict[str, Estimate]]:
    """By system and bin of span lengths, in tokens, the estimate of the accuracy where spans are masked. Without bins
    that fewer than two documents have."""
    found: dict[str, dict[str, Estimate]] = {}
    sums = _law_sums(plan)
    for number, length in enumerate(LENGTHS if sums else ()):
        results = Results()
        for (system, seed), laws in sums.items():
            rows = [ItemRow(name, name, tuple(own[number])) for name, own in laws["spans"].items()]
            results.add(SYSTEMS[system], str(seed), 0, 0, rows)
        try:
            estimates = compare(results, ACCURACY, pairs=[]).estimates
        except MetricError:
            continue
        for estimate in estimates:
            found.setdefault(estimate.checkpoint, {})[length] = estimate
    return found


def trainings(plan: Plan) -> dict[str, list[Mapping[str, Any]]]:
    """By system the metrics.json of every training that has ended."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for system, seed in [(START, 0)] * bool(plan.study.adaptation) + plan.checkpoints():
        path = plan.metrics_file(system, seed)
        if path.exists():
            found.setdefault(SYSTEMS.get(system, START), []).append(json.loads(path.read_text()))
    return found


def costs(plan: Plan) -> dict[str, list[Mapping[str, float]]]:
    """By system what each round measured."""
    files = {SYSTEMS[system]: [plan.cost_file(system, turn) for turn in range(ROUNDS)] for system in SYSTEMS}
    return {
        name: [json.loads(path.read_text()) for path in paths]
        for name, paths in files.items()
        if all(map(Path.exists, paths))
    }
