# SPDX-License-Identifier: Apache-2.0
"""From results on the disk to comparisons, and to the three forms in which they are shown."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spanbert_ext.evaluate.report.page import build_page
from spanbert_ext.evaluate.report.table import terminal_tables
from spanbert_ext.evaluate.run.evaluation import Evaluation, Request
from spanbert_ext.evaluate.run.store import versions
from spanbert_ext.evaluate.statistics.compare import Comparison, compare
from spanbert_ext.evaluate.statistics.results import MetricError, Results, ResultsError
from spanbert_ext.files.disk import explained, write_synced
from spanbert_ext.files.run_files import write_json

PAGE, SUMMARY = "report.html", "summary.json"
LEVEL = 0.95


@dataclass(frozen=True)
class Training:
    """What the trainings of one checkpoint on one data set were like."""

    checkpoint: str
    runs: int
    diverged: int
    seconds: float | None  # of one, the mean
    facts: dict[str, Any]  # of the first


@dataclass(frozen=True)
class Section:
    """A data set: its comparisons, one a metric; by metric the best that the same answer to every item reaches; the
    trainings of each checkpoint; and why metrics are left out that the items tested do not define."""

    name: str
    task: str
    items: str
    clusters: str
    comparisons: Sequence[Comparison]
    constant_answer: Mapping[str, float]
    trainings: Sequence[Training]
    left_out: Sequence[str] = ()


def report(evaluation: Evaluation, request: Request) -> str:
    """Writes report.html and summary.json beside the results; returns the tables for the terminal. Raises
    `ResultsError`, `DiskError`."""
    sections = [_section(evaluation, number) for number in range(len(evaluation.jobs.data))]
    about = _about(evaluation, request)
    folder = evaluation.store.folder
    with explained("the report", folder):
        write_json(about | {"data": [dataclasses.asdict(section) for section in sections]}, folder / SUMMARY)
        write_synced(build_page(sections, about), folder / PAGE)
    in_terminal = sys.stdout is not None and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if in_terminal else None
    return f"{terminal_tables(sections, width)}\n\nPage: {folder / PAGE}"


def _section(evaluation: Evaluation, number: int) -> Section:
    jobs, task = evaluation.jobs, evaluation.task
    data = jobs.data[number]
    results, facts = Results(), {}
    for checkpoint in evaluation.checkpoints:  # in their order, which says who is compared with whom
        for job in jobs.of(number):
            if job.checkpoint == checkpoint:
                result = evaluation.store.read(job)
                results.add(checkpoint.name, checkpoint.pretraining_seed, job.seed, job.fold, result.rows)
                facts.setdefault(checkpoint.name, []).append(result.facts)
    comparisons, left_out = [], []
    for metric in task.metrics(data).values():
        try:
            comparisons.append(compare(results, metric, level=LEVEL))
        except MetricError as error:
            left_out.append(str(error))
    if not comparisons:
        raise ResultsError(f"{data.name}: {left_out[0]}")
    scores = task.constant_scores(data, jobs.tested(number))
    constant = {comparison.metric: scores[comparison.metric] for comparison in comparisons}
    trainings = [_training(name, own) for name, own in facts.items()]
    return Section(
        data.name, jobs.task, task.items, task.clusters, comparisons, constant, trainings, left_out
    )


def _training(name: str, facts: Sequence[dict[str, Any]]) -> Training:
    seconds = [own["training_seconds"] for own in facts if own.get("training_seconds") is not None]
    return Training(
        name,
        len(facts),
        sum(bool(own.get("diverged")) for own in facts),
        sum(seconds) / len(seconds) if seconds else None,
        {key: value for key, value in facts[0].items() if key != "losses"},
    )


def _about(evaluation: Evaluation, request: Request) -> dict[str, Any]:
    jobs = evaluation.jobs
    return {
        "task": jobs.task,
        "checkpoints": [
            {
                "name": checkpoint.name,
                "pretraining_seed": checkpoint.pretraining_seed,
                "folder": str(checkpoint.folder),
                "digest": checkpoint.digest,
            }
            for checkpoint in evaluation.checkpoints
        ],
        "data_path": str(request.data),
        "seeds": request.seeds,
        "only_folds": list(request.only_folds),
        "options": dataclasses.asdict(jobs.options),
        "device": jobs.device,
        "precision": "bfloat16" if jobs.bf16 else "float32",
        "versions": versions(),
        "level": LEVEL,
    }
