# SPDX-License-Identifier: Apache-2.0
"""What few clusters can tell: nothing is separated that a turn of signs would not separate."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("scipy")

from spanbert_ext.evaluate.scores.metric import SumMetric, ratio
from spanbert_ext.evaluate.scores.rows import ItemRow
from spanbert_ext.evaluate.statistics.compare import Comparison, compare
from spanbert_ext.evaluate.statistics.results import Results
from spanbert_ext.evaluate.statistics.variance import least_p_value

MEAN = SumMetric(
    "mean",
    lambda rows: np.stack([rows[:, 0], np.ones(len(rows))], axis=1),
    lambda sums: ratio(sums[..., 0], sums[..., 1], empty=np.nan),
)


def compared(*systems: Sequence[float], seeds: int = 1, **options: int) -> Comparison:
    """Of systems a, b, ...: one item a cluster, the same scores under every seed."""
    results = Results()
    for name, values in zip("abcd", systems, strict=False):
        rows = [ItemRow(str(i), str(i), (float(value),)) for i, value in enumerate(values)]
        for seed in range(seeds):
            results.add(name, "", seed, 0, rows)
    return compare(results, MEAN, **({"replicates": 100} | options))


@pytest.mark.parametrize("clusters", [2, 3, 5, 7])
def test_the_bound_is_what_turning_all_signs_finds_at_best(clusters: int) -> None:
    """Differences of one sign are the most extreme of all."""
    differences = np.random.default_rng(0).random(clusters) + 1
    turned = [
        abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=clusters)
    ]  # all 2^n
    assert np.mean(np.array(turned) >= differences.sum() - 1e-9) == least_p_value(clusters)
    assert least_p_value(19) > 0 == least_p_value(20)


@pytest.mark.parametrize("seeds", [1, 5])
@pytest.mark.parametrize("clusters, separated", [(2, False), (4, False), (5, False), (6, True), (20, True)])
def test_a_constant_difference_is_told_by_six_clusters(clusters: int, separated: bool, seeds: int) -> None:
    """It has no variance: Student's p-value is 0."""
    found = compared([0.0] * clusters, [1.0] * clusters, seeds=seeds)
    (difference,) = found.differences
    assert difference.p_value == difference.holm_p_value == least_p_value(clusters)
    assert difference.separated == separated
    for interval in (difference.interval, difference.holm_interval):
        assert (interval.low, interval.high) == ((100, 100) if separated else (0, 200))
    said = "; with fewer than 6 groups no difference is separated, however large"
    assert found.covers.endswith(said) != separated


def test_more_pairs_need_more_clusters() -> None:
    def systems(clusters: int) -> list[list[float]]:
        return [[float(system)] * clusters for system in range(4)]

    few, enough = compared(*systems(7)), compared(*systems(8))
    assert not any(difference.separated for difference in few.differences)
    assert all(difference.holm_interval.low <= 0 for difference in few.differences)
    assert few.covers.endswith("; with fewer than 8 groups no difference is separated, however large")
    assert all(difference.separated for difference in enough.differences)
    assert enough.covers.endswith("(8 groups here) and no other seed")


def test_one_checkpoint_needs_none() -> None:
    assert compared([0.0, 1.0]).covers.endswith("(2 groups here) and no other seed")


@pytest.mark.parametrize("clusters", [2, 3, 4, 6, 8, 12])
def test_equal_systems_that_answer_yes_or_no_are_seldom_separated(clusters: int) -> None:
    """Without the bound 12 % would be at two clusters: where both differ by the same, nothing tells that it is luck."""
    random, trials = np.random.default_rng(clusters), 400
    wrong = held = without = 0
    for trial in range(trials):
        found = compared(*random.integers(2, size=(2, clusters)), seed=trial)
        (difference,) = found.differences
        wrong += difference.separated
        held += difference.interval.low <= 0 <= difference.interval.high
        without += difference.standard_error < 1e-9 and difference.value != 0
    assert wrong == trials - held
    assert wrong / trials <= 0.07  # 0.05 and two standard errors
    assert clusters > 2 or without / trials > 0.08
