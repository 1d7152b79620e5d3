# SPDX-License-Identifier: Apache-2.0
"""A task that is done at once, to test what surrounds tasks: its answers are drawn by checkpoint and seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spanbert_ext.evaluate import evaluate_cli
from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.scores.classes import accuracy, class_row
from spanbert_ext.evaluate.scores.rows import ItemRow
from spanbert_ext.evaluate.tasks.folds import cross_validation
from spanbert_ext.evaluate.tasks.form import (
    Checkpoint,
    Conditions,
    DataSet,
    EvaluationError,
    Fold,
    Outcome,
    Task,
)
from spanbert_ext.evaluate.tasks.options import TrainingOptions, option
from spanbert_ext.evaluate.tasks.registry import Entry


@dataclass(frozen=True)
class FakeOptions(TrainingOptions):
    folds: int = option(2, "parts", metavar="N", least=2, most=100)
    noise: float = option(0.3, "share of wrong answers", metavar="SHARE", least=0.0, most=1.0)
    order: str = option("plain", "a choice", choices=("plain", "odd"))


@dataclass(frozen=True)
class FakeData(DataSet):
    labels: tuple[int, ...]


class FakeTask(Task[FakeData, FakeOptions]):
    clusters = "pages"
    items = "answers"
    calls: list[tuple[str, str, int]] = []  # of all instances, in order
    checks: list[tuple[str, list[str]]] = []

    def load(self, path: Path, options: FakeOptions) -> list[FakeData]:
        files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
        if not files or not all(file.is_file() for file in files):
            raise DataError(path, "there is no such file")
        return [FakeData(file.stem, (file,), tuple(map(int, file.read_text().split()))) for file in files]

    def folds(self, data: FakeData, options: FakeOptions) -> list[Fold]:
        return cross_validation([str(i // 4) for i in range(len(data.labels))], options.folds, self.clusters)

    def metrics(self, data: FakeData) -> dict:
        return {"accuracy": accuracy()}

    def constant_answers(self, data: FakeData, items: Sequence[int]) -> Iterator[list[ItemRow]]:
        for answer in (0, 1):
            yield [ItemRow(str(i // 4), str(i), class_row(answer, data.labels[i])) for i in items]

    def check(
        self,
        checkpoint: Checkpoint,
        data: Sequence[FakeData],
        folds: Sequence[Sequence[Fold]],
        options: FakeOptions,
    ) -> None:
        self.checks.append((checkpoint.name, [one.name for one in data]))
        if checkpoint.name == "unfit":
            raise EvaluationError("--order is plain, but the encoder takes odd alone")

    def train_and_predict(
        self, checkpoint: Checkpoint, data: FakeData, fold: Fold, options: FakeOptions, conditions: Conditions
    ) -> Outcome:
        self.calls.append((checkpoint.name, fold.name, conditions.seed))
        conditions.progress(0.5)
        draw = np.random.default_rng([*checkpoint.name.encode(), conditions.seed, *fold.test])
        rows = []
        for index in fold.test:
            label = data.labels[index]
            said = 1 - label if draw.random() < options.noise else label
            rows.append(ItemRow(str(index // 4), str(index), class_row(said, label)))
        return Outcome(rows, {}, {"training_seconds": 1.0, "diverged": checkpoint.name == "bad"})


ENTRY = Entry(
    "answers at once", "a file of labels", FakeOptions, "fake_task", "FakeTask", "fake a --data labels.txt"
)


def write_labels(path: Path, count: int = 24) -> Path:
    path.write_text(" ".join(str(i % 2) for i in range(count)))
    return path


def run(
    *more: str, task: str = "fake", data: str = "labels.txt", checkpoints: tuple[str, ...] = ("a", "b")
) -> int:
    given = [task, *checkpoints, "--data", data, "--output", "out", "--device", "cpu", "--no-progress", *more]
    return evaluate_cli.main(given)


def results(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out" / "results").iterdir())


def error_of(capsys, *more: str, status: int = 2, **given) -> str:
    assert run(*more, **given) == status
    return capsys.readouterr().err.strip().splitlines()[-1]
