# SPDX-License-Identifier: Apache-2.0
"""What a metric counts of each item: which clusters are drawn, and how many they are worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("scipy")
pytest.importorskip("sklearn")
pytest.importorskip("torchmetrics")

from scipy.stats import t as student

from spanbert_ext.evaluate.scores.coref import COREF_METRICS
from spanbert_ext.evaluate.scores.gap import GAP_METRICS, gap_row
from spanbert_ext.evaluate.scores.metric import SumMetric
from spanbert_ext.evaluate.scores.qa import QA_METRICS
from spanbert_ext.evaluate.scores.rows import ItemRow
from spanbert_ext.evaluate.statistics.compare import compare
from spanbert_ext.evaluate.statistics.results import Results, ResultsError


def test_documents_of_many_mentions_weigh_as_many_items() -> None:
    """Counted as twelve of one size, 9 % of the comparisons of equal systems would separate them."""
    sizes = np.round(40 * np.exp(np.linspace(-1.8, 1.8, 12)))
    right = sizes * np.random.default_rng(0).random(12)
    rows = np.stack([right, sizes] * 6, axis=1).tolist()
    results = Results()
    results.add("a", "", 0, 0, [ItemRow(str(i), str(i), tuple(row)) for i, row in enumerate(rows)])
    (estimate,) = compare(results, COREF_METRICS["B3 F1"]).estimates
    effective = sizes.sum() ** 2 / (sizes**2).sum()
    assert effective < 6
    half = estimate.standard_error * student.ppf(0.975, effective - 1)
    assert estimate.interval.high - estimate.value == pytest.approx(half)


def test_spans_of_many_words_weigh_as_many_items() -> None:
    from spanbert_ext.evaluate.tasks.probe.data import _FOUND

    sizes = _FOUND.sizes(np.array([[0.0, 1.0], [2.0, 5.0]]))
    np.testing.assert_array_equal(sizes, [1, 5])


def answered(*exact: float) -> list[ItemRow]:
    """Rows of questions in two articles "a" and "b" and, between them, of two without an answer in an article "c"."""
    rows = [(1.0, x, x, x, x) for x in exact]
    rows[2:2] = [(0.0, 0.0, 0.0, 1.0, 1.0)] * 2
    return [
        ItemRow(article, str(i), row) for i, (article, row) in enumerate(zip("aaccbb", rows, strict=True))
    ]


@pytest.mark.filterwarnings("error")
def test_clusters_without_an_item_of_the_metric_are_not_drawn() -> None:
    results, without = Results(), Results()
    for seed, exact in enumerate(((1, 0, 1, 1), (0, 0, 1, 0))):
        results.add("a", "", seed, 0, answered(*exact))
        without.add("a", "", seed, 0, [item for item in answered(*exact) if item.cluster != "c"])
    found, expected = (compare(one, QA_METRICS["EM"]) for one in (results, without))
    assert found.estimates == expected.estimates and found.estimates[0].standard_error > 0
    assert (found.items, found.clusters) == (6, 3)
    assert found.covers.startswith("Intervals of EM cover other items like these (2 groups here)")
    assert compare(results, QA_METRICS["EM with no-answer"]).covers.startswith("Intervals cover other items")


def test_one_cluster_alone_has_no_interval_whatever_stands_beside_it() -> None:
    results = Results()
    for name, exact in (("a", (1, 0, 1, 1)), ("b", (1, 1, 1, 1))):
        results.add(name, "", 0, 0, [item for item in answered(*exact) if item.cluster != "b"])
    with pytest.raises(ResultsError, match="all items of EM are of one cluster; an interval needs two"):
        compare(results, QA_METRICS["EM"])


def test_the_pronouns_of_one_gender_are_items_of_their_own() -> None:
    answers = [
        ("A", "A", "feminine"),
        ("B", "A", "feminine"),
        ("A", "A", "masculine"),
        ("B", "B", "masculine"),
    ]
    rows = [ItemRow(str(i), str(i), gap_row(*answer)) for i, answer in enumerate(answers)]
    results, feminine = Results(), Results()
    results.add("a", "", 0, 0, rows)
    feminine.add("a", "", 0, 0, rows[:2])
    found, expected = (compare(one, GAP_METRICS["F1 feminine"]) for one in (results, feminine))
    assert found.estimates == expected.estimates and found.estimates[0].standard_error > 0
    with pytest.raises(ResultsError, match="F1 masculine counts none of the 2 items"):
        compare(feminine, GAP_METRICS["F1 masculine"])


def test_runs_that_a_metric_counts_otherwise_are_not_of_the_same_data() -> None:
    def results_of(*runs: Sequence[float]) -> Results:
        results = Results()
        for name, values in zip("ab", runs, strict=False):
            rows = [ItemRow(str(i), str(i), (value,)) for i, value in enumerate(values)]
            results.add(name, "", 0, 0, rows)
        return results

    by_answer = SumMetric("sum", lambda rows: rows, lambda sums: sums[..., 0], sizes=lambda rows: rows[:, 0])
    with pytest.raises(ResultsError, match=r"sum counts other items of b \(seed 0\) than of a \(seed 0\)"):
        compare(results_of((1, 2), (1, 3)), by_answer)
    nothing = dataclasses.replace(by_answer, sizes=lambda rows: np.zeros(len(rows)))
    with pytest.raises(ResultsError, match="sum counts none of the 2 items"):
        compare(results_of((1, 2)), nothing)
