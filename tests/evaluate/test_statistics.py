# SPDX-License-Identifier: Apache-2.0
"""Intervals and differences: worked by hand, and how often they hold what they should."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("scipy")

from scipy.stats import t as student

from spanbert_ext.evaluate.scores.metric import SumMetric, ratio
from spanbert_ext.evaluate.scores.rows import ItemRow
from spanbert_ext.evaluate.statistics.compare import Comparison, compare
from spanbert_ext.evaluate.statistics.holm import holm_levels, holm_p_values
from spanbert_ext.evaluate.statistics.resampling import cluster_draws
from spanbert_ext.evaluate.statistics.results import Results, ResultsError

MEAN = SumMetric(
    "mean",
    lambda rows: np.stack([rows[:, 0], np.ones(len(rows))], axis=1),
    lambda sums: ratio(sums[..., 0], sums[..., 1], empty=np.nan),
)


def item_rows(values: Sequence[float], clusters: Sequence[object] | None = None) -> list[ItemRow]:
    clusters = range(len(values)) if clusters is None else clusters
    return [
        ItemRow(str(cluster), f"item {number}", (float(value),))
        for number, (value, cluster) in enumerate(zip(values, clusters, strict=True))
    ]


def results_of(runs: dict[tuple[str, str, int], Sequence[float]], clusters=None) -> Results:
    results = Results()
    for run, values in runs.items():
        results.add(*run, 0, item_rows(values, clusters))
    return results


# --- Holm --------------------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    assert holm_p_values([0.02, 0.01, 0.04]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm_p_values([0.04, 0.03, 0.9]) == pytest.approx([0.09, 0.09, 0.9])
    assert holm_p_values([0.6, 0.7]) == [1, 1] and holm_p_values([]) == []
    # 0.01 < 0.05 / 3, 0.03 is not below 0.05 / 2: 0.031, though below 0.05, is judged at that level too.
    assert holm_levels([0.031, 0.01, 0.03], 0.05) == pytest.approx([0.025, 0.05 / 3, 0.025])


def test_holm_rejects_where_the_adjusted_p_value_is_below_the_error() -> None:
    for p_values in np.random.default_rng(0).random((200, 4)) * 0.1:
        adjusted, levels = holm_p_values(p_values), holm_levels(p_values, 0.05)
        assert [p < 0.05 for p in adjusted] == [p < level for p, level in zip(p_values, levels, strict=True)]


# --- Resampling --------------------------------------------------------------------------------------------------


def test_the_variance_of_resampled_means_is_that_of_the_mean() -> None:
    values = np.array([1.0, 5, 2, 8, 3])
    weights = np.concatenate(list(cluster_draws(5, 20_000, seed=1)))
    assert weights.shape == (20_000, 5) and (weights.sum(axis=1) == 4).all()
    assert (weights @ values / 4).var() == pytest.approx(values.var(ddof=1) / 5, rel=0.05)
    np.testing.assert_array_equal(weights, np.concatenate(list(cluster_draws(5, 20_000, seed=1))))
    assert (weights != np.concatenate(list(cluster_draws(5, 20_000, seed=2)))).any()


def test_draws_in_pieces_are_all_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spanbert_ext.evaluate.statistics.resampling._WEIGHTS_AT_ONCE", 30)
    pieces = list(cluster_draws(7, 10, seed=0))
    assert [len(piece) for piece in pieces] == [4, 4, 2]


# --- Scores ------------------------------------------------------------------------------------------------------


def test_one_run_has_the_interval_of_a_mean_of_clusters() -> None:
    values = np.random.default_rng(3).normal(size=40)
    (estimate,) = compare(results_of({("a", "", 7): values}), MEAN, replicates=20_000).estimates
    error = values.std(ddof=1) / 40**0.5
    assert estimate.value == pytest.approx(100 * values.mean())
    assert estimate.standard_error == pytest.approx(100 * error, rel=0.03)
    half = 100 * error * student.ppf(0.975, 39)
    assert estimate.interval.high - estimate.value == pytest.approx(half, rel=0.03)
    assert estimate.value - estimate.interval.low == pytest.approx(half, rel=0.03)


def test_items_of_one_cluster_are_drawn_together() -> None:
    values = np.repeat(
        np.random.default_rng(3).normal(size=20), 10
    )  # ten equal items a cluster: no ten times the news
    clustered = compare(results_of({("a", "", 7): values}, np.repeat(range(20), 10)), MEAN)
    single = compare(results_of({("a", "", 7): values}), MEAN)
    ratio_of_errors = clustered.estimates[0].standard_error / single.estimates[0].standard_error
    assert ratio_of_errors == pytest.approx(10**0.5, rel=0.1)
    assert (clustered.items, clustered.clusters) == (200, 20)


def test_clusters_of_other_sizes_tell_less() -> None:
    results = results_of({("a", "", 0): range(12)}, "aaaaaaaabbcd")
    assert results.table().of(MEAN)[1] == pytest.approx(144 / (64 + 4 + 1 + 1))
    (estimate,) = compare(results, MEAN).estimates
    half = estimate.standard_error * student.ppf(0.975, 144 / 70 - 1)
    assert estimate.interval.high - estimate.value == pytest.approx(half)


def test_a_score_is_the_mean_over_seeds_with_their_spread_in_it() -> None:
    values = np.zeros(30)
    found = compare(
        results_of({("a", "", seed): values + shift for seed, shift in enumerate((0, 1, 5))}), MEAN
    )
    (estimate,) = found.estimates
    assert estimate.value == pytest.approx(200) and estimate.seed_values == pytest.approx((0, 100, 500))
    assert estimate.standard_error == pytest.approx(100 * 7**0.5 / 3**0.5)  # items are all alike
    half = student.ppf(0.975, 2) * estimate.standard_error
    assert estimate.interval.high == pytest.approx(200 + half)
    assert (estimate.seeds, estimate.runs) == ("fine-tuning seeds", 3)
    assert found.covers.endswith("like these (30 groups here) and other fine-tuning seeds (3 here)")


def test_seeds_of_pretraining_are_what_is_drawn_where_there_are_several() -> None:
    shifts = {"p1": 0, "p2": 1, "p3": 5}
    runs = {
        ("a", name, seed): np.zeros(30) + shift + spread
        for name, shift in shifts.items()
        for seed, spread in ((0, -1), (1, 1))
    }
    found = compare(results_of(runs), MEAN)
    (estimate,) = found.estimates
    assert estimate.seed_values == pytest.approx((0, 100, 500)) and estimate.runs == 6
    assert estimate.seeds == "pre-training seeds"
    assert found.covers.endswith("and other pre-training seeds (3 here)")
    assert estimate.standard_error == pytest.approx(100 * 7**0.5 / 3**0.5)


def test_folds_are_pooled() -> None:
    values = np.random.default_rng(3).normal(size=40)
    whole, parts = results_of({("a", "", 7): values}), Results()
    for fold in (1, 0):
        parts.add("a", "", 7, fold, item_rows(values)[fold::2])
    assert compare(parts, MEAN).estimates == compare(whole, MEAN).estimates


# --- Differences -------------------------------------------------------------------------------------------------


def test_differences_are_paired_by_item_and_seed() -> None:
    random = np.random.default_rng(0)
    hard = random.normal(size=50)  # what makes an item hard is the same for both
    runs = {}
    for seed in range(3):
        luck = random.normal()  # and so is what makes a seed lucky
        runs["a", "", seed] = hard + luck
        runs["b", "", seed] = hard + luck + 0.1 + random.normal(size=50) / 50
    found = compare(results_of(runs), MEAN)
    (difference,) = found.differences
    assert (difference.first, difference.second) == ("b", "a") and difference.value == pytest.approx(
        10, abs=1
    )
    assert difference.standard_error < min(estimate.standard_error for estimate in found.estimates) / 20
    assert difference.separated and difference.interval.low > 0


def test_a_constant_difference_is_certain_and_no_difference_is_none() -> None:
    values = np.random.default_rng(0).random(20)
    runs = {("a", "", 0): values, ("b", "", 0): values, ("c", "", 0): values + 1}
    same, certain, _ = compare(results_of(runs), MEAN, pairs=[("b", "a"), ("c", "a"), ("b", "c")]).differences
    assert (same.value, same.p_value, same.separated) == (0, 1, False)
    assert certain.value == pytest.approx(100) and certain.separated and certain.p_value < 1e-9


def test_checkpoints_with_other_seeds_of_pretraining_are_not_paired() -> None:
    random = np.random.default_rng(0)
    hard = random.normal(size=50)
    runs = {("a", name, 0): hard + shift for name, shift in (("1", 0), ("2", 2), ("3", 4))}
    paired = {("b", name, 0): hard + shift for name, shift in (("1", 1), ("2", 3), ("3", 5))}
    other = {("b", name, 0): hard + shift for name, shift in (("4", 1), ("5", 3), ("6", 5))}
    assert compare(results_of(runs | paired), MEAN).differences[0].standard_error < 1e-6
    error = compare(results_of(runs | other), MEAN).differences[0].standard_error
    assert error == pytest.approx(100 * (2 * 4 / 3) ** 0.5)
    alone = compare(results_of(runs | {("b", "", 0): hard}), MEAN)
    assert alone.differences[0].standard_error == pytest.approx(100 * (4 / 3) ** 0.5)
    assert alone.covers.endswith("; of a other pre-training seeds (3 here), of b no other seed")


def test_the_holm_interval_holds_zero_where_the_pair_is_not_separated() -> None:
    random = np.random.default_rng(5)
    seen = set()
    for _ in range(40):
        runs = {
            (name, "", 0): random.normal(size=30) + shift
            for name, shift in (("a", 0), ("b", 0.3), ("c", 0.8))
        }
        for difference in compare(results_of(runs), MEAN, replicates=100).differences:
            interval = difference.holm_interval
            assert difference.separated == (not interval.low <= 0 <= interval.high)
            assert difference.separated == (difference.holm_p_value < 0.05)
            assert interval.high - interval.low >= difference.interval.high - difference.interval.low
            seen.add((difference.separated, difference.p_value < 0.05))
    assert {(True, True), (False, True), (False, False)} <= seen


def test_default_pairs_are_each_later_checkpoint_against_each_before_it() -> None:
    values = np.random.default_rng(0).random(10)
    found = compare(results_of({(name, "", 0): values for name in "abc"}), MEAN, replicates=100)
    assert [(difference.first, difference.second) for difference in found.differences] == [
        ("b", "a"),
        ("c", "a"),
        ("c", "b"),
    ]


def test_the_same_results_give_the_same_comparison_in_any_order() -> None:
    values = np.random.default_rng(0).random((2, 2, 30))
    runs = {(name, "", seed): values["ab".index(name), seed] for name in "ab" for seed in (0, 1)}
    first = compare(results_of(runs), MEAN)
    shuffled = Results()
    for (name, _, seed), found in sorted(runs.items(), key=lambda entry: (entry[0][0], -entry[0][2])):
        shuffled.add(name, "", seed, 0, item_rows(found)[::-1])
    assert compare(shuffled, MEAN) == first
    assert compare(shuffled, MEAN, seed=1) != first


# --- Simulated: how often an interval holds the truth, and how often nothing is taken for a difference --------------


def simulated(
    random: np.random.Generator, seeds: int, clusters: int, by_seed: float, by_item: float
) -> Comparison:
    """Three equal systems: cluster means of items that are equally hard for all, seeds that are lucky or not."""
    hard = random.normal(size=clusters)
    results = Results()
    for name in "abc":
        taste = hard + random.normal(size=clusters) / 2
        for seed in range(seeds):
            noise = random.normal(size=clusters) * by_item
            results.add(name, "", seed, 0, item_rows(taste + random.normal() * by_seed + noise))
    return compare(results, MEAN, replicates=100, seed=int(random.integers(1 << 30)))


@pytest.mark.parametrize(
    ("seeds", "by_seed", "by_item"),
    [(1, 0.0, 1.0), (3, 0.5, 1.0), (3, 1.0, 0.2)],
    ids=["one seed", "seeds and items", "seeds alone"],
)
def test_intervals_hold_the_truth_and_noise_is_not_separated(
    seeds: int, by_seed: float, by_item: float
) -> None:
    random, trials = np.random.default_rng(seeds), 100
    scores = differences = wrong = 0
    for _ in range(trials):
        found = simulated(random, seeds, 15, by_seed, by_item)
        scores += sum(one.interval.low <= 0 <= one.interval.high for one in found.estimates)
        differences += sum(one.interval.low <= 0 <= one.interval.high for one in found.differences)
        wrong += any(one.separated for one in found.differences)
    # Three correlated intervals a trial: the standard error of a share of 0.95 is 0.013 to 0.022.
    assert 0.91 <= scores / (3 * trials) <= 1.0
    assert 0.91 <= differences / (3 * trials) <= 1.0
    assert wrong / trials <= 0.10


def test_a_percentile_bootstrap_of_three_seeds_would_be_too_narrow() -> None:
    """Why seeds are not resampled: the middle 95 % of means of three draws from three values."""
    random = np.random.default_rng(0)
    values = random.normal(size=(2000, 3))
    drawn = values[:, random.integers(3, size=(500, 3))].mean(axis=2)  # [trials, 500]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=1)
    assert ((low <= 0) & (high >= 0)).mean() < 0.85
    half = student.ppf(0.975, 2) * values.std(axis=1, ddof=1) / 3**0.5
    assert (abs(values.mean(axis=1)) <= half).mean() == pytest.approx(0.95, abs=0.015)


# --- Results that cannot be compared -------------------------------------------------------------------------------


def test_what_a_run_has_already_is_refused() -> None:
    results = results_of({("a", "", 0): [1, 2]})
    with pytest.raises(ResultsError, match=r"a \(seed 0\) has fold 0 already"):
        results.add("a", "", 0, 0, item_rows([1]))
    with pytest.raises(ResultsError, match=r"fold 1: the item 'item 0' occurs twice"):
        results.add("a", "", 0, 1, item_rows([1]))
    with pytest.raises(ResultsError, match=r"fold 2: the row of 'x' has 2 numbers, others 1"):
        results.add("a", "", 0, 2, [ItemRow("x", "x", (1.0, 2.0))])
    with pytest.raises(ResultsError, match="fold 3 has no items"):
        results.add("a", "", 0, 3, [])


def test_runs_that_are_not_paired_are_named() -> None:
    with pytest.raises(ResultsError, match=r"b \(seed 0\) lacks 1 of 3 items \(fold 0\)"):
        compare(results_of({("a", "", 0): [1, 2, 3], ("b", "", 0): [1, 2]}), MEAN)
    runs = {("a", "p1", 0): [1, 2], ("a", "p2", 0): [1, 2], ("a", "p2", 1): [1, 2]}
    with pytest.raises(ResultsError, match=r"a \(seed 1, pre-training seed p1\) is missing"):
        compare(results_of(runs), MEAN)
    results = results_of({("a", "", 0): [1, 2]})
    results.add("b", "", 0, 0, item_rows([1, 2], clusters=[0, 5]))
    with pytest.raises(
        ResultsError, match=r"b \(seed 0\) has 'item 1' in fold 0 and cluster '5', a \(seed 0\)"
    ):
        compare(results, MEAN)
    with pytest.raises(ResultsError, match="there are no results"):
        compare(Results(), MEAN)


def test_wrong_arguments_and_undefined_metrics_are_named() -> None:
    results = results_of({("a", "", 0): [1, 2]})
    with pytest.raises(ResultsError, match="all items of mean are of one cluster; an interval needs two"):
        compare(results_of({("a", "", 0): [1, 2]}, clusters="xx"), MEAN)
    with pytest.raises(ValueError, match="level is 95"):
        compare(results, MEAN, level=95)
    with pytest.raises(ValueError, match="replicates is 10"):
        compare(results, MEAN, replicates=10)
    with pytest.raises(ValueError, match="pairs name 'c'; expected checkpoints of a"):
        compare(results, MEAN, pairs=[("c", "a")])
    undefined = SumMetric(
        "EM", lambda rows: 0 * rows, lambda sums: ratio(sums[..., 0], sums[..., 0], empty=np.nan)
    )
    with pytest.raises(ResultsError, match=r"EM of a \(seed 0\) is nan: its 2 items do not define it"):
        compare(results, undefined)
    at_times = SumMetric("EM", MEAN.features, lambda sums: np.where(sums[..., 0] == 2, np.nan, sums[..., 0]))
    with pytest.raises(ResultsError, match=r"EM of a \(seed 0\) is not defined by \d+ of 2000 resamples"):
        compare(results, at_times)


def test_sums_that_are_not_the_librarys_metric_are_not_resampled() -> None:
    crooked = SumMetric("mean", MEAN.features, MEAN.of_sums, library=lambda rows: rows.mean() + 1e-6)
    with pytest.raises(ArithmeticError, match=r"mean of a \(seed 0\) is 150\.0001, by its sums 150"):
        compare(results_of({("a", "", 0): [1, 2]}), crooked)
