# SPDX-License-Identifier: Apache-2.0
"""How far a mean over seeds, scored on clusters of items, may lie from what other seeds and items would give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

_SMALLEST_P = 1e-300
_HALVINGS = 60  # of the range of log p: to 1e-15 of it
_FEW = 20  # clusters; below 20 to 50 tests by clusters reject too much (Cameron and Miller, J. Human Resources 2015)


def least_p_value(clusters: int) -> float:
    """The smallest p-value that so many clusters can tell.

    A paired test that assumes no more than that differences are as likely negative as positive turns the signs of the
    clusters' differences in all 2^n ways, of which those as extreme as what was seen are two at least, itself and its
    negative: p is 2^(1 - n) or more, whatever the difference. Student's p-value has no such bound: two clusters that
    happen to differ by the same have no variance, and p would be 0. From 20 clusters on the bound is below all that is
    told (2e-6), and is 0 here."""
    return 2.0 ** (1 - clusters) if clusters < _FEW else 0.0


@dataclass(frozen=True, slots=True)
class Spread:
    """The variance of a score in parts, each with the degrees of freedom of its estimate: one part a group of seeds,
    and one of the clusters of items."""

    parts: tuple[tuple[float, float], ...]
    least_p: float = 0.0  # see `least_p_value`

    @property
    def standard_error(self) -> float:
        return math.sqrt(sum(variance for variance, _ in self.parts))

    def half_width(self, error: float) -> float:
        """Half the interval that misses with the chance `error`: every part weighs by Student's quantile of its own
        degrees of freedom. One quantile for their sum, at Satterthwaite's degrees, would be too small wherever few
        seeds happen to lie close together: of three equal systems with two seeds it separates some in 15 % of all
        comparisons, in place of 5 %."""
        quantiles = [
            (math.sqrt(variance), -float(stdtrit(degrees, error / 2))) for variance, degrees in self.parts
        ]
        return math.hypot(*(deviation * quantile for deviation, quantile in quantiles if deviation))

    def half_width_of_difference(self, value: float, error: float) -> float:
        """`half_width`, but as wide as reaches 0 where the clusters are too few to exclude anything at that error."""
        half = self.half_width(error)
        return max(half, abs(value)) if error <= self.least_p else half

    def p_value(self, value: float) -> float:
        """Of the difference `value`: the error at which the interval around it just reaches 0."""
        return max(self._by_student(value), self.least_p)

    def _by_student(self, value: float) -> float:
        if value == 0 or self.half_width(_SMALLEST_P) < abs(value):
            return float(value == 0)
        low, high = math.log(_SMALLEST_P), 0.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self.half_width(math.exp(middle)) >= abs(value):
                low = middle
            else:
                high = middle
        return math.exp(high)


@dataclass(frozen=True, slots=True)
class Seeds:
    """A score of each of S seeds: on all items, [S], and on every resample of the clusters, [S, B]."""

    values: np.ndarray
    resampled: np.ndarray

    def variances(self) -> tuple[float, float]:
        """The variance of the mean over seeds by drawing other seeds; and the part of it that is also a part of the
        variance by drawing other clusters: how much more, or less, one seed likes a cluster than the others do."""
        count = len(self.values)
        if count < 2:
            return 0.0, 0.0
        apart = self.resampled - self.resampled.mean(axis=0)
        shared = apart.var(axis=1, ddof=1).sum() / (count * (count - 1))
        return float(self.values.var(ddof=1) / count), float(shared)


def spread(sides: Sequence[Seeds], resampled: np.ndarray, count: int, clusters: float) -> Spread:
    """The spread of a score, or of a difference of two sides whose seeds are not paired.

    `resampled` [B] is the score itself on every resample of `count` clusters, of which there are effectively
    `clusters`: by their mere number 8 % of the intervals would miss where 16 clusters have between 1 and 30 items.
    Seeds and clusters are crossed: the variance by seeds and that by clusters each hold what is particular to a seed
    and a cluster, and it is taken off once."""
    parts, shared = [], 0.0
    for side in sides:
        by_seeds, also_by_clusters = side.variances()
        shared += min(also_by_clusters, by_seeds)
        if len(side.values) > 1:
            parts.append((by_seeds, len(side.values) - 1))
    by_clusters = float(resampled.var(ddof=1))
    parts.append((max(by_clusters - shared, 0.0), max(clusters - 1, 1.0)))
    return Spread(tuple(parts), least_p_value(count))
