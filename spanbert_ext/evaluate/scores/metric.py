# SPDX-License-Identifier: Apache-2.0
"""Metrics as functions of rows, which a bootstrap can also ask of resampled rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Metric(Protocol):
    """`metric(rows)` scores rows [N, C], one an item, in percent: higher is better, NaN where the rows do not define
    it."""

    name: str

    def __call__(self, rows: np.ndarray) -> float: ...

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """How much each row weighs in the metric [N]; 0 where it is no item of it. A matter of the data alone, whatever
        was answered: the same for every run."""
        ...

    def resampler(
        self, rows: np.ndarray, clusters: np.ndarray, count: int
    ) -> Callable[[np.ndarray], np.ndarray]:
        """A function from weights [B, count], how often each cluster is drawn, to the metric [B] of the rows so drawn.

        `clusters` [N] (int) holds each row's cluster, 0 ... count - 1."""
        ...


def ratio(numerator: np.ndarray, denominator: np.ndarray, empty: float = 0.0) -> np.ndarray:
    """numerator / denominator, and `empty` where the denominator is 0."""
    known = denominator != 0
    return np.where(known, numerator / np.where(known, denominator, 1), empty)


def f1(true: np.ndarray, predicted: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """F1 of counts: right ones, predicted ones, ones that there are; 0 where there is none of any."""
    return ratio(2 * true, predicted + gold)


def one_each(rows: np.ndarray) -> np.ndarray:
    """The sizes of rows that all weigh the same."""
    return np.ones(len(rows))


@dataclass(frozen=True)
class SumMetric:
    """A metric that depends on sums over items alone.

    `features` makes of rows [N, C] what is summed, [N, F]; `of_sums` of sums [..., F] the metric as a fraction [...].
    `sizes`: see `Metric`.
    Where a library has the metric, `library` asks it, and is what scores are: `of_sums` is then the same for thousands
    of resamples at once, and the statistics compare the two on the data that they are given."""

    name: str
    features: Callable[[np.ndarray], np.ndarray]
    of_sums: Callable[[np.ndarray], np.ndarray]
    library: Callable[[np.ndarray], float] | None = None
    sizes: Callable[[np.ndarray], np.ndarray] = one_each

    def __call__(self, rows: np.ndarray) -> float:
        rows = np.asarray(rows, dtype=float)
        if self.library is not None:
            return 100.0 * float(self.library(rows))
        return 100.0 * float(self.of_sums(self.features(rows).sum(axis=0)))

    def resampler(
        self, rows: np.ndarray, clusters: np.ndarray, count: int
    ) -> Callable[[np.ndarray], np.ndarray]:
        features = self.features(np.asarray(rows, dtype=float))  # [N, F]
        columns = [np.bincount(clusters, feature, minlength=count) for feature in features.T]
        sums = np.stack(columns, axis=1)  # [count, F]
        return lambda weights: 100.0 * self.of_sums(weights @ sums)
