# SPDX-License-Identifier: Apache-2.0
"""The form that every task has: what it is asked, and what it answers. Imports neither torch nor transformers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from spanbert_ext.evaluate.scores.metric import Metric
from spanbert_ext.evaluate.scores.rows import ItemRow
from spanbert_ext.evaluate.tasks.options import TaskOptions


class EvaluationError(ValueError):
    """Something that the user can correct, beside the data itself; the message names it and says what is expected."""


@dataclass(frozen=True)
class Checkpoint:
    """A pre-trained model in a local folder.

    name: of the system, as tables call it; several checkpoints of one name are the same system from several
        pre-training seeds. digest: of its weights, configuration and tokenizer."""

    name: str
    folder: Path
    digest: str
    pretraining_seed: str = ""


@dataclass(frozen=True)
class DataSet:
    """One data set of a task; a task's own class adds its items to it. files: what was read."""

    name: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Fold:
    """One way to divide a data set, as indices of its items. `held_out` are items that are not trained on, from which
    what is neither trained nor tested may be chosen (a threshold); empty where nothing is."""

    name: str
    train: Sequence[int]
    test: Sequence[int]
    held_out: Sequence[int] = ()


@dataclass(frozen=True)
class Outcome:
    """One row for every test item, in any order. predictions: by item, for people; facts: of the job, for people; both
    of JSON's types. `facts["diverged"]` true: training ended in a loss that is no number; its rows count all the
    same."""

    rows: Sequence[ItemRow]
    predictions: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def _no_progress(share: float) -> None:
    pass


@dataclass(frozen=True)
class Conditions:
    """Under which a job runs. device: of torch. progress: to be called with the share of the job that is done."""

    seed: int
    device: str = "cpu"
    bf16: bool = False
    progress: Callable[[float], None] = _no_progress


Data = TypeVar("Data", bound=DataSet)
Options = TypeVar("Options", bound=TaskOptions)


class Task(ABC, Generic[Data, Options]):
    """A task. One instance does the jobs of an evaluation in one process, one after the other, and may keep what
    several of them need (encoded text, features of a frozen encoder).

    clusters, items: plural nouns of what is resampled and what is counted, for tables. method: counts changes of the
    task's code that make other results of the same options; results from before are then not used. seeds_together: the
    jobs of a checkpoint follow each other, so that what is kept for one checkpoint serves all its seeds; else
    checkpoints take turns, so that an evaluation that is stopped has comparable results."""

    clusters: ClassVar[str]
    items: ClassVar[str]
    method: ClassVar[int] = 1
    seeds_together: ClassVar[bool] = False

    @abstractmethod
    def load(self, path: Path, options: Options) -> list[Data]:
        """The data sets in a file or folder. Raises `DataError` or `EvaluationError`."""

    @abstractmethod
    def folds(self, data: Data, options: Options) -> list[Fold]:
        """The folds of a data set: the same for every checkpoint and seed. Their test items are disjoint.
        Raises `EvaluationError`."""

    @abstractmethod
    def metrics(self, data: Data) -> dict[str, Metric]:
        """The metrics of a data set by their names, the one that matters most first."""

    @abstractmethod
    def constant_answers(self, data: Data, items: Sequence[int]) -> Iterator[list[ItemRow]]:
        """The rows of items, given by their indices, for who gives the same answer to every one: for each answer that
        may be the best, one at least."""

    def constant_scores(self, data: Data, items: Sequence[int]) -> dict[str, float]:
        """By metric the best that the same answer to every item reaches: a score that is no higher tells nothing of a
        checkpoint."""
        answers = [np.array([row.row for row in rows]) for rows in self.constant_answers(data, items)]
        return {name: max(map(metric, answers)) for name, metric in self.metrics(data).items()}

    @abstractmethod
    def check(
        self, checkpoint: Checkpoint, data: Sequence[Data], folds: Sequence[Sequence[Fold]], options: Options
    ) -> None:
        """Called for every checkpoint before any is trained, with the data sets and their folds that it has jobs of: an
        error that its files and the data tell now is raised now, and not by its first job. Raises `EvaluationError`,
        `DataError`."""

    @abstractmethod
    def train_and_predict(
        self, checkpoint: Checkpoint, data: Data, fold: Fold, options: Options, conditions: Conditions
    ) -> Outcome:
        """Trains on `fold.train` from the checkpoint, and predicts `fold.test`. On the CPU the same arguments give
        the same outcome. Two checkpoints with one tokenizer read the same rows in the same order under the same seed.
        """
