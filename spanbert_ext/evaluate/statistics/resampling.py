# SPDX-License-Identifier: Apache-2.0
"""The metric of every run on resampled clusters of items: the same draws for all runs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from spanbert_ext.evaluate.scores.metric import Metric
from spanbert_ext.evaluate.statistics.results import MetricError, Run, Table

_WEIGHTS_AT_ONCE = 1 << 22  # clusters times replicates
_AGREE = 1e-6  # in percent points


def cluster_draws(count: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `count` clusters is drawn, replicate after replicate, [b, count] at a time.

    count - 1 of them are drawn with replacement: the variance of a mean over so many is that of the mean over all,
    where count draws would fall short of it by a factor (count - 1) / count."""
    random = np.random.default_rng(seed)
    piece = max(1, _WEIGHTS_AT_ONCE // count)
    for begin in range(0, replicates, piece):
        number = min(piece, replicates - begin)
        drawn = random.integers(count, size=(number, count - 1)) + count * np.arange(number)[:, None]
        yield np.bincount(drawn.ravel(), minlength=number * count).reshape(number, count).astype(float)


def metric_of_runs(table: Table, metric: Metric) -> dict[Run, float]:
    """The metric of every run. Raises `MetricError` where the rows do not define it."""
    values = {run: metric(rows) for run, rows in table.rows.items()}
    for run, value in values.items():
        if not np.isfinite(value):
            raise MetricError(
                f"{metric.name} of {run} is {value}: its {len(table.clusters)} items do not define it"
            )
    return values


def resampled_metric(
    table: Table, metric: Metric, values: dict[Run, float], replicates: int, seed: int
) -> dict[Run, np.ndarray]:
    """The metric of every run on each of `replicates` resamples of the clusters, [replicates]. `values` are those of
    the whole table: the resampler must find them too where every cluster is drawn once, or ArithmeticError is
    raised. Raises `MetricError` where a resample does not define the metric."""
    resamplers = {
        run: metric.resampler(rows, table.clusters, table.count) for run, rows in table.rows.items()
    }
    for run, resampler in resamplers.items():
        whole = float(resampler(np.ones((1, table.count)))[0])
        if not abs(whole - values[run]) < _AGREE:
            raise ArithmeticError(f"{metric.name} of {run} is {values[run]}, by its sums {whole}")
    parts: dict[Run, list[np.ndarray]] = {run: [] for run in resamplers}
    for weights in cluster_draws(table.count, replicates, seed):
        for run, resampler in resamplers.items():
            parts[run].append(resampler(weights))
    resampled = {run: np.concatenate(drawn) for run, drawn in parts.items()}
    for run, drawn in resampled.items():
        if undefined := np.count_nonzero(~np.isfinite(drawn)):
            raise MetricError(
                f"{metric.name} of {run} is not defined by {undefined} of {replicates} resamples"
            )
    return resampled
