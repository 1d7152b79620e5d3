"""How far a mean over seeds, scored on clusters of items, may lie from what other seeds and items would give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Variance:
    """Of a score, with the degrees of freedom of its estimate (Satterthwaite's)."""

    value: float
    degrees: float


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
        apart = self.resampled - np.nanmean(self.resampled, axis=0)
        shared = np.nanvar(apart, axis=1, ddof=1).sum() / (count * (count - 1))
        return float(self.values.var(ddof=1) / count), float(shared)


def variance(sides: list[Seeds], resampled: np.ndarray, clusters: int) -> Variance:
    """The variance of a score, or of a difference of two sides whose seeds are not paired.

    `resampled` [B] is the score itself on every resample of the clusters. Seeds and clusters are crossed: the variance
    by seeds and that by clusters each hold what is particular to a seed and a cluster, so that is taken off once."""
    parts = [(*side.variances(), len(side.values) - 1) for side in sides]
    by_clusters = float(np.nanvar(resampled, ddof=1))
    by_seeds = sum(own for own, _, _ in parts)
    value = max(by_seeds + by_clusters - sum(shared for _, shared, _ in parts), by_seeds, by_clusters)
    if value == 0:
        return Variance(0.0, np.inf)
    spread = by_clusters**2 / (clusters - 1)
    for own, shared, degrees in parts:
        if degrees:
            spread += own**2 / degrees + shared**2 / (degrees * (clusters - 1))
    return Variance(value, value**2 / spread)
