# SPDX-License-Identifier: Apache-2.0
"""Scores with intervals, and which differences are more than noise."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spanbert_ext.evaluate.scores.metric import Metric
from spanbert_ext.evaluate.statistics.holm import holm_levels, holm_p_values
from spanbert_ext.evaluate.statistics.resampling import metric_of_runs, resampled_metric
from spanbert_ext.evaluate.statistics.results import Results
from spanbert_ext.evaluate.statistics.variance import Seeds, Spread, least_p_value, spread


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A checkpoint's score: the mean over its runs."""

    checkpoint: str
    value: float
    standard_error: float
    interval: Interval
    seed_values: tuple[float, ...]  # of each seed that stands for others, the mean of its runs
    seeds: str  # which ones these are: "pre-training seeds" or "fine-tuning seeds"
    runs: int


@dataclass(frozen=True, slots=True)
class Difference:
    """`first` minus `second`, paired by item, and by seed where both have the same seeds."""

    first: str
    second: str
    value: float
    standard_error: float
    interval: Interval  # of this pair alone
    holm_interval: (
        Interval  # at the level that Holm leaves to this pair: excludes 0 exactly where `separated`
    )
    p_value: float  # two-sided, of this pair alone
    holm_p_value: float
    separated: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric of every checkpoint, and the differences of pairs."""

    metric: str
    level: float
    estimates: tuple[Estimate, ...]
    differences: tuple[Difference, ...]
    items: int  # of the data; the metric may count fewer of them
    clusters: int
    covers: str  # what the intervals speak of, in a sentence


@dataclass(frozen=True, slots=True)
class _System:
    """A checkpoint's scores by the seeds that are taken as drawn from many: several pre-training seeds, each with the
    mean of its runs, or else fine-tuning seeds."""

    name: str
    seeds: str
    labels: tuple[str, ...]
    scores: Seeds
    runs: int

    def paired_with(self, other: _System) -> bool:
        return (self.seeds, self.labels) == (other.seeds, other.labels)


def _interval(value: float, half: float) -> Interval:
    return Interval(float(value - half), float(value + half))


def _systems(results: Results, values: dict, resampled: dict) -> dict[str, _System]:
    systems = {}
    for name in results.checkpoints:
        by_seed = results.runs(name)
        runs = [run for group in by_seed.values() for run in group]
        if len(by_seed) > 1:
            seeds, groups = "pre-training seeds", by_seed
        else:
            seeds, groups = "fine-tuning seeds", {str(run.seed): [run] for run in runs}
        scores = Seeds(
            np.array([np.mean([values[run] for run in group]) for group in groups.values()]),
            np.array([np.mean([resampled[run] for run in group], axis=0) for group in groups.values()]),
        )
        systems[name] = _System(name, seeds, tuple(groups), scores, len(runs))
    return systems


def _difference(first: _System, second: _System, count: int, clusters: float) -> tuple[float, Spread]:
    value = float(first.scores.values.mean() - second.scores.values.mean())
    resampled = first.scores.resampled.mean(axis=0) - second.scores.resampled.mean(axis=0)
    if first.paired_with(second):
        sides = [
            Seeds(
                first.scores.values - second.scores.values, first.scores.resampled - second.scores.resampled
            )
        ]
    else:
        sides = [first.scores, second.scores]
    return value, spread(sides, resampled, count, clusters)


def _covers(intervals: str, systems: Sequence[_System], clusters: int, needed: int) -> str:
    """What the intervals speak of, in a sentence that begins with `intervals`. needed: clusters without which no
    difference is separated."""
    seeds = {}
    for system in systems:
        count = len(system.labels)
        seeds[system.name] = f"other {system.seeds} ({count} here)" if count > 1 else "no other seed"
    items = f"{intervals} cover other items like these ({clusters} groups here)"
    if len(set(seeds.values())) == 1:
        said = f"{items} and {next(iter(seeds.values()))}"
    else:
        said = f"{items}; " + ", ".join(f"of {name} {covered}" for name, covered in seeds.items())
    if clusters < needed:
        said += f"; with fewer than {needed} groups no difference is separated, however large"
    return said


def _needed_clusters(pairs: int, error: float) -> int:
    """The fewest clusters with which a difference of so many pairs can be separated."""
    return next(count for count in itertools.count(2) if not pairs or least_p_value(count) < error / pairs)


def compare(
    results: Results,
    metric: Metric,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    level: float = 0.95,
    replicates: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compares all checkpoints of `results` by `metric`.

    A score is the mean over runs. Its standard error is that of other seeds and other clusters of items: clusters are
    resampled `replicates` times, the same for all runs; seeds are few, and enter by the variance of their scores.
    Intervals and p-values are Student's, with the degrees of freedom that so many seeds and clusters have: the
    percentiles of a bootstrap over three seeds would miss the truth four times as often as they say. Fewer than 20
    clusters bound p from below (`least_p_value`): of one pair no difference is separated by fewer than 6 of them, of
    six pairs by fewer than 8.

    `pairs` are the (first, second) whose differences are tested, together, by Holm; None: every checkpoint that was
    added later against each before it. Raises `ResultsError` where checkpoints were not run on the same items and
    seeds; `MetricError`, a kind of it, where what the metric counts is of fewer than two clusters, or does not define
    it; ValueError for a checkpoint in `pairs` that has no results."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a number between 0 and 1")
    if replicates < 100:
        raise ValueError(f"replicates is {replicates}; expected 100 or more")
    whole = results.table()
    table, effective = whole.of(metric)
    if pairs is None:
        pairs = [(later, before) for before, later in itertools.combinations(results.checkpoints, 2)]
    for name in itertools.chain.from_iterable(pairs):
        if name not in results.checkpoints:
            raise ValueError(f"pairs name {name!r}; expected checkpoints of {', '.join(results.checkpoints)}")
    values = metric_of_runs(table, metric)
    resampled = resampled_metric(table, metric, values, replicates, seed)
    systems = _systems(results, values, resampled)

    error = 1 - level
    estimates = []
    for system in systems.values():
        value = float(system.scores.values.mean())
        apart = spread([system.scores], system.scores.resampled.mean(axis=0), table.count, effective)
        estimates.append(
            Estimate(
                system.name,
                value,
                apart.standard_error,
                _interval(value, apart.half_width(error)),
                tuple(map(float, system.scores.values)),
                system.seeds,
                system.runs,
            )
        )
    found = [_difference(systems[first], systems[second], table.count, effective) for first, second in pairs]
    p_values = [apart.p_value(value) for value, apart in found]
    differences = [
        Difference(
            first,
            second,
            value,
            apart.standard_error,
            _interval(value, apart.half_width_of_difference(value, error)),
            _interval(value, apart.half_width_of_difference(value, holm_error)),
            p_value,
            holm_p_value,
            separated=p_value < holm_error,
        )
        for (first, second), (value, apart), p_value, holm_p_value, holm_error in zip(
            pairs, found, p_values, holm_p_values(p_values), holm_levels(p_values, error), strict=True
        )
    ]
    intervals = "Intervals" if table.count == whole.count else f"Intervals of {metric.name}"
    return Comparison(
        metric.name,
        level,
        tuple(estimates),
        tuple(differences),
        len(whole.clusters),
        whole.count,
        _covers(intervals, list(systems.values()), table.count, _needed_clusters(len(pairs), error)),
    )
