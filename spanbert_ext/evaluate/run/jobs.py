# SPDX-License-Identifier: Apache-2.0
"""The jobs of an evaluation, and what makes two of them the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from spanbert_ext.evaluate.scores.metric import Metric
from spanbert_ext.evaluate.statistics.resampling import metric_of_runs
from spanbert_ext.evaluate.statistics.results import MetricError, Results, Table
from spanbert_ext.evaluate.tasks.folds import at_most
from spanbert_ext.evaluate.tasks.form import Checkpoint, DataSet, EvaluationError, Fold, Task
from spanbert_ext.evaluate.tasks.options import TaskOptions
from spanbert_ext.files.disk import sha256_of


@dataclass(frozen=True)
class Job:
    """One checkpoint trained on one fold of one data set under one seed.

    data, fold: numbers in `Jobs.data` and in its folds. key: a hash of all that its result depends on."""

    checkpoint: Checkpoint
    data: int
    fold: int
    seed: int
    key: str


@dataclass(frozen=True)
class Jobs:
    """All jobs of an evaluation, in the order in which they are done. left_out: of each data set why it has not all
    metrics."""

    task: str
    options: TaskOptions
    device: str
    bf16: bool
    data: tuple[DataSet, ...]
    folds: tuple[tuple[Fold, ...], ...]
    jobs: tuple[Job, ...]
    left_out: tuple[tuple[str, ...], ...]

    def tested(self, data: int) -> list[int]:
        """Indices of the items of a data set that its folds test."""
        return tested_by(self.folds[data])

    def of(self, data: int) -> list[Job]:
        return [job for job in self.jobs if job.data == data]


def plan_jobs(
    name: str,
    task: Task[Any, Any],
    data: Sequence[DataSet],
    options: TaskOptions,
    checkpoints: Sequence[Checkpoint],
    seeds: int,
    only_folds: Sequence[int],
    device: str,
    bf16: bool,
) -> Jobs:
    """only_folds: numbers from 1 of the folds to do; all where it is empty. Raises `EvaluationError`, also where what
    is tested could not be compared whatever the checkpoints answer."""
    folds = tuple(tuple(_folds(task, one, options, only_folds)) for one in data)
    left_out = tuple(_left_out(task, one, own) for one, own in zip(data, folds, strict=True))
    common = {
        "task": name,
        "method": task.method,
        "options": {key: value for key, value in dataclasses.asdict(options).items() if key not in _IN_FOLDS},
        "device": device,
        "bf16": bf16,
    }
    files = [[sha256_of(file) for file in one.files] for one in data]
    jobs = []
    for checkpoint, number, seed, fold in _order(checkpoints, folds, seeds, task.seeds_together):
        content = common | {
            "checkpoint": checkpoint.digest,
            "files": files[number],
            "data": data[number].name,
            "fold": _digest(dataclasses.asdict(folds[number][fold])),
            "seed": seed,
        }
        jobs.append(Job(checkpoint, number, fold, seed, _digest(content)[:16]))
    return Jobs(name, options, device, bf16, tuple(data), folds, tuple(jobs), left_out)


_IN_FOLDS = ("folds", "max_train")  # options that the items of a fold tell


def _folds(task: Task[Any, Any], data: DataSet, options: TaskOptions, only: Sequence[int]) -> Iterator[Fold]:
    try:
        found = task.folds(data, options)
    except EvaluationError as error:
        raise EvaluationError(f"{data.name}: {error}") from None
    wrong = [number for number in only if not 1 <= number <= len(found)]
    if wrong:
        raise EvaluationError(f"--only-folds is {wrong[0]}, but {data.name} has the folds 1 to {len(found)}")
    for number, fold in enumerate(found, 1):
        if not only or number in only:
            for part, items in (("train on", fold.train), ("test", fold.test)):
                if not items:
                    raise EvaluationError(f"{data.name}: fold {fold.name!r} has nothing to {part}")
            yield at_most(fold, options.max_train)


def tested_by(folds: Sequence[Fold]) -> list[int]:
    """Indices of the items that folds test, all together."""
    return [index for fold in folds for index in fold.test]


def _left_out(task: Task[Any, Any], data: DataSet, folds: Sequence[Fold]) -> tuple[str, ...]:
    """Why what the folds test has not all metrics. Raises `EvaluationError` where it has none."""
    rows = next(task.constant_answers(data, tested_by(folds)))
    what = f"{data.name}: the {len(rows):,} {task.items} to test"
    results = Results()
    results.add("a constant answer", "", 0, 0, rows)
    table = results.table()
    if table.count < 2:
        raise EvaluationError(
            f"{what} are all of one of the {task.clusters} ({rows[0].cluster}); an interval needs two at least: test"
            " more folds or more data"
        )
    metrics = task.metrics(data).values()
    reasons = tuple(reason for metric in metrics if (reason := _lacks(table, metric)))
    if len(reasons) == len(metrics):
        raise EvaluationError(f"{what} have no score: {reasons[0]}; test more folds or more data")
    return reasons


def _lacks(table: Table, metric: Metric) -> str:
    """Why rows have no metric; "" where they have it."""
    try:
        metric_of_runs(table.of(metric)[0], metric)
    except MetricError as error:
        return str(error)
    return ""


def _order(
    checkpoints: Sequence[Checkpoint], folds: Sequence[Sequence[Fold]], seeds: int, together: bool
) -> Iterator[tuple[Checkpoint, int, int, int]]:
    """(checkpoint, number of the data set, seed, number of the fold)."""
    for number, of_data in enumerate(folds):
        if together:
            yield from (
                (checkpoint, number, seed, fold)
                for checkpoint in checkpoints
                for fold in range(len(of_data))
                for seed in range(seeds)
            )
        else:
            yield from (
                (checkpoint, number, seed, fold)
                for seed in range(seeds)
                for fold in range(len(of_data))
                for checkpoint in checkpoints
            )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
