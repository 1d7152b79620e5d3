"""Scores with intervals, and which differences are more than noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spanbert_ext.evaluate.scores.metric import Metric
from spanbert_ext.evaluate.statistics.results import Results


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
    seed_values: tuple[float, ...]  # the mean of every seed that is resampled, in the order of adding
    seeds: str  # "pre-training seeds" or "fine-tuning seeds": what `seed_values` are
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
    items: int
    clusters: int
    covers: str  # what the intervals speak of, for the reader: "3 fine-tuning seeds and 16 clusters of items: ..."


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

    `pairs` are the (first, second) whose differences are tested, together, by Holm; None: every checkpoint that was
    added later against each before it. Raises `ResultsError` where checkpoints were not run on the same items, or the
    metric is not defined."""
    raise NotImplementedError
