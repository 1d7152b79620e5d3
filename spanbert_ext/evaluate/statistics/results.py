# SPDX-License-Identifier: Apache-2.0
"""Rows of every run, side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from spanbert_ext.evaluate.scores.metric import Metric
from spanbert_ext.evaluate.scores.rows import ItemRow


class ResultsError(ValueError):
    """Results that cannot be compared; the message says what is missing or differs."""


class MetricError(ResultsError):
    """A metric that these results do not define, or give no interval; other metrics may be compared."""


@dataclass(frozen=True, slots=True)
class Run:
    """A checkpoint that was fine-tuned once. Checkpoints of one procedure that differ in their pre-training seed share
    the name; "" where there is one alone."""

    checkpoint: str
    pretraining_seed: str
    seed: int

    def __str__(self) -> str:
        of = f", pre-training seed {self.pretraining_seed}" if self.pretraining_seed else ""
        return f"{self.checkpoint} (seed {self.seed}{of})"


@dataclass(frozen=True, slots=True)
class Table:
    """The same items of every run: `rows[run]` [N, C], with the cluster [N] (0 ... count - 1) of each item."""

    rows: dict[Run, np.ndarray]
    clusters: np.ndarray
    count: int

    def of(self, metric: Metric) -> tuple[Table, float]:
        """The items that the metric counts, and how many clusters of one size would tell as much as theirs: as many as
        they are where they are of one size, fewer where a few hold most of what it counts (Kish's effective sample
        size). Raises `MetricError` where it counts no item, or those of one cluster alone; `ResultsError` where it
        does not count the same ones in every run."""
        (first, rows), *others = self.rows.items()
        sizes = metric.sizes(rows)
        for run, other in others:
            if (metric.sizes(other) != sizes).any():
                raise ResultsError(
                    f"runs cannot be compared: {metric.name} counts other items of {run} than of {first}; were they"
                    " scored on the same data?"
                )
        counted = sizes > 0
        if not counted.any():
            raise MetricError(f"{metric.name} counts none of the {len(rows)} items")
        numbers, clusters = np.unique(self.clusters[counted], return_inverse=True)
        if len(numbers) < 2:
            raise MetricError(f"all items of {metric.name} are of one cluster; an interval needs two or more")
        table = Table({run: rows[counted] for run, rows in self.rows.items()}, clusters, len(numbers))
        of_clusters = np.bincount(clusters, sizes[counted])
        return table, float(of_clusters.sum() ** 2 / (of_clusters**2).sum())


@dataclass(slots=True)
class _Items:
    """What a run answered, by item: its fold, cluster and row."""

    folds: set[int] = field(default_factory=set)
    rows: dict[str, tuple[int, str, tuple[float, ...]]] = field(default_factory=dict)


class Results:
    """What every run answered to every item, its folds added one by one in any order."""

    def __init__(self) -> None:
        self._runs: dict[Run, _Items] = {}
        self._columns: int | None = None

    def add(
        self, checkpoint: str, pretraining_seed: str, seed: int, fold: int, rows: Iterable[ItemRow]
    ) -> None:
        """Adds one fold of one run. Raises `ResultsError` for a fold or an item that the run has already, for rows of
        another length, or no rows."""
        run = Run(checkpoint, pretraining_seed, seed)
        items = self._runs.setdefault(run, _Items())
        if fold in items.folds:
            raise ResultsError(f"{run} has fold {fold} already")
        items.folds.add(fold)
        before = len(items.rows)
        for cluster, item, row in rows:
            if self._columns is None:
                self._columns = len(row)
            if len(row) != self._columns:
                raise ResultsError(
                    f"{run}, fold {fold}: the row of {item!r} has {len(row)} numbers, others {self._columns}"
                )
            if item in items.rows:
                raise ResultsError(f"{run}, fold {fold}: the item {item!r} occurs twice")
            items.rows[item] = (fold, cluster, tuple(row))
        if len(items.rows) == before:
            raise ResultsError(f"{run}, fold {fold} has no items")

    @property
    def checkpoints(self) -> list[str]:
        """In the order in which they were added."""
        return list(dict.fromkeys(run.checkpoint for run in self._runs))

    def runs(self, checkpoint: str) -> dict[str, list[Run]]:
        """The runs of a checkpoint by pre-training seed; seeds in their order."""
        found: dict[str, list[Run]] = {}
        for run in sorted(self._runs, key=lambda run: (run.pretraining_seed, run.seed)):
            if run.checkpoint == checkpoint:
                found.setdefault(run.pretraining_seed, []).append(run)
        return found

    def missing(self) -> list[str]:
        """What the comparison still lacks, a sentence each: fine-tuning seeds and items that other runs have."""
        if not self._runs:
            return ["there are no results"]
        lacks = []
        seeds = {run.seed for run in self._runs}
        for checkpoint in self.checkpoints:
            for pretraining_seed, runs in self.runs(checkpoint).items():
                for seed in sorted(seeds - {run.seed for run in runs}):
                    lacks.append(f"{Run(checkpoint, pretraining_seed, seed)} is missing")
        places = {item: place[:2] for items in self._runs.values() for item, place in items.rows.items()}
        for run, items in self._runs.items():
            if unanswered := places.keys() - items.rows.keys():
                folds = sorted({places[item][0] for item in unanswered})
                named = f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))}"
                lacks.append(f"{run} lacks {len(unanswered)} of {len(places)} items ({named})")
        return lacks

    def table(self) -> Table:
        """All runs over the same items, in one order of items. Raises `ResultsError` where runs differ in their
        fine-tuning seeds, items, folds or clusters: they would not be paired."""
        if lacks := self.missing():
            more = f" (and {len(lacks) - 3} more)" if len(lacks) > 3 else ""
            raise ResultsError("runs cannot be compared: " + "; ".join(lacks[:3]) + more)
        first_run, first = next(iter(self._runs.items()))
        order = sorted(first.rows)
        for run, items in self._runs.items():
            for item in order:
                if items.rows[item][:2] != first.rows[item][:2]:
                    (fold, cluster), (other_fold, other_cluster) = items.rows[item][:2], first.rows[item][:2]
                    raise ResultsError(
                        f"runs cannot be compared: {run} has {item!r} in fold {fold} and cluster {cluster!r},"
                        f" {first_run} in fold {other_fold} and cluster {other_cluster!r}"
                    )
        names, clusters = np.unique([first.rows[item][1] for item in order], return_inverse=True)
        rows = {
            run: np.array([items.rows[item][2] for item in order], dtype=float)
            for run, items in self._runs.items()
        }
        return Table(rows, clusters, len(names))
