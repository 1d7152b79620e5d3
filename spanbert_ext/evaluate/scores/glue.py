# SPDX-License-Identifier: Apache-2.0
"""GLUE's metrics, over rows (prediction, label)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from spanbert_ext.evaluate.scores.classes import accuracy, counts
from spanbert_ext.evaluate.scores.metric import Metric, SumMetric, f1, one_each, ratio


def glue_row(prediction: float, label: float) -> tuple[float, float]:
    """The row of an example: number of the predicted class and of the right one, or both scores (STS-B)."""
    return float(prediction), float(label)


_ROUNDING = 1e-12  # of a variance that is 0, beside the mean square


def _moments(rows: np.ndarray) -> np.ndarray:
    """Features [N, 6]: 1, x, y, x x, y y, x y, of values from whose middle the correlation does not depend."""
    x, y = (rows - rows.mean(axis=0)).T if len(rows) else rows.T
    return np.stack([np.ones(len(rows)), x, y, x * x, y * y, x * y], axis=1)


def _correlation(sums: np.ndarray) -> np.ndarray:
    """Pearson's correlation of moments; 0 where one side is constant. Of two classes it is Matthews' coefficient."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    x_variance, y_variance = n * xx - x * x, n * yy - y * y
    varies = (x_variance > _ROUNDING * n * xx) & (y_variance > _ROUNDING * n * yy)
    return ratio(np.where(varies, n * xy - x * y, 0), np.sqrt(np.where(varies, x_variance * y_variance, 0)))


def _unless_constant(
    correlation: Callable[[np.ndarray, np.ndarray], float],
) -> Callable[[np.ndarray], float]:
    """0 where one side is constant, of which the libraries warn, and scipy says NaN."""

    def of_rows(rows: np.ndarray) -> float:
        if not len(rows) or (np.ptp(rows, axis=0) == 0).any():
            return 0.0
        return correlation(rows[:, 0], rows[:, 1])

    return of_rows


class _Spearman:
    """Spearman's correlation: ranks depend on which items are drawn, so resamples are ranked anew."""

    name = "Spearman"
    sizes = staticmethod(one_each)

    def __call__(self, rows: np.ndarray) -> float:
        correlation = _unless_constant(lambda x, y: spearmanr(x, y).statistic)
        return 100.0 * float(correlation(np.asarray(rows, dtype=float)))

    def resampler(
        self, rows: np.ndarray, clusters: np.ndarray, count: int
    ) -> Callable[[np.ndarray], np.ndarray]:
        columns = []  # of both sides: items in the order of their values, where each value begins, each item's value
        for column in np.asarray(rows, dtype=float).T:
            _, level = np.unique(column, return_inverse=True)
            order = np.argsort(level, kind="stable")
            columns.append((order, np.searchsorted(level[order], np.arange(level.max() + 1)), level))

        def ranks(
            weights: np.ndarray, order: np.ndarray, begins: np.ndarray, level: np.ndarray
        ) -> np.ndarray:
            """The mean rank [B, N] of every item among those drawn, from the middle."""
            drawn = np.add.reduceat(weights[:, order], begins, axis=1)  # [B, distinct values]
            middle = np.cumsum(drawn, axis=1) - drawn / 2 - drawn.sum(axis=1, keepdims=True) / 2
            return middle[:, level]

        def of_weights(cluster_weights: np.ndarray) -> np.ndarray:
            weights = cluster_weights[:, clusters]  # [B, N]
            x, y = (ranks(weights, *column) for column in columns)
            xx, yy, xy = (np.einsum("bn,bn,bn->b", weights, *pair) for pair in ((x, x), (y, y), (x, y)))
            return 100.0 * ratio(xy, np.sqrt(xx * yy))

        return of_weights


# By name; F1 is that of class 1.
GLUE_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        accuracy(),
        SumMetric(
            "F1",
            counts([1]),
            lambda sums: f1(*np.moveaxis(sums, -1, 0)),
            library=lambda rows: f1_score(rows[:, 1], rows[:, 0], zero_division=0.0),
        ),
        SumMetric(
            "Matthews",
            _moments,
            _correlation,
            library=_unless_constant(matthews_corrcoef),
        ),
        SumMetric(
            "Pearson", _moments, _correlation, library=_unless_constant(lambda x, y: pearsonr(x, y).statistic)
        ),
        _Spearman(),
    )
}
