# SPDX-License-Identifier: Apache-2.0
"""Scores of classes and numbers: worked by hand, equal to scikit-learn's and scipy's, also on resamples."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from spanbert_ext.evaluate.data.glue import GLUE_TASKS
from spanbert_ext.evaluate.data.relations import SEMEVAL_LABELS
from spanbert_ext.evaluate.scores.classes import (
    accuracy,
    class_row,
    macro_f1,
    micro_f1,
    semeval_macro_f1,
)
from spanbert_ext.evaluate.scores.gap import GAP_METRICS, gap_row
from spanbert_ext.evaluate.scores.glue import GLUE_METRICS, glue_row
from spanbert_ext.evaluate.scores.metric import Metric

LABELS = ("no_relation", "a", "b", "c")


def rows(*pairs: tuple[str, str], labels: tuple[str, ...] = LABELS) -> np.ndarray:
    """(predicted, gold) by name."""
    return np.array([class_row(labels.index(predicted), labels.index(gold)) for predicted, gold in pairs])


def test_the_negative_class_is_neither_predicted_nor_gold() -> None:
    found = rows(
        ("a", "a"), ("a", "b"), ("no_relation", "b"), ("no_relation", "no_relation"), ("c", "no_relation")
    )
    assert micro_f1(LABELS, "no_relation")(found) == pytest.approx(100 * 2 * 1 / (3 + 3))
    assert micro_f1(LABELS, None)(found) == accuracy()(found) == pytest.approx(40)
    assert micro_f1(LABELS, "no_relation")(found[3:4]) == 0  # nothing to find, nothing found


def test_macro_f1_is_over_classes_that_occur() -> None:
    found = rows(("a", "a"), ("a", "b"), ("b", "b"))  # a: 2/3, b: 2/3, c does not occur
    assert macro_f1(LABELS)(found) == pytest.approx(100 * 2 / 3)


def test_semeval_counts_directions_as_wrong_within_a_relation() -> None:
    ce12, ce21, mt12 = "Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Message-Topic(e1,e2)"
    found = rows(
        (ce12, ce12),
        (ce21, ce12),
        (ce21, ce21),
        (mt12, "Other"),
        (mt12, mt12),
        ("Other", ce21),
        labels=SEMEVAL_LABELS,
    )
    # Cause-Effect: 2 right of 3 predicted and 4 gold; Message-Topic: 1 right of 2 predicted and 1 gold.
    expected = pytest.approx(100 * (2 * 2 / 7 + 2 * 1 / 3) / 2)
    assert semeval_macro_f1(SEMEVAL_LABELS)(found) == expected
    # A relation that is predicted and never gold is none of the mean, and none of another's precision.
    never_gold = rows(("Member-Collection(e1,e2)", "Other"), labels=SEMEVAL_LABELS)
    assert semeval_macro_f1(SEMEVAL_LABELS)(np.concatenate([found, never_gold])) == expected
    assert semeval_macro_f1(SEMEVAL_LABELS)(never_gold) == 0


def test_wrong_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="negative class is 'none'; expected one of no_relation"):
        micro_f1(LABELS, "none")
    with pytest.raises(ValueError, match="expected each once"):
        macro_f1(("a", "a"))


def by_library(name: str, found: np.ndarray) -> float:
    """The metric as the libraries have it, of rows repeated as a resample has them."""
    predicted, gold = found.T
    if name == "Pearson":
        return pearsonr(predicted, gold).statistic
    if name == "Spearman":
        return spearmanr(predicted, gold).statistic
    functions = {
        "accuracy": lambda: accuracy_score(gold, predicted),
        "Matthews": lambda: matthews_corrcoef(gold, predicted),
        "F1": lambda: f1_score(gold, predicted, zero_division=0.0),
        "micro F1": lambda: f1_score(gold, predicted, labels=[1, 2, 3], average="micro", zero_division=0.0),
        "macro F1": lambda: f1_score(gold, predicted, average="macro", zero_division=0.0),
    }
    return functions[name]()


METRICS: list[tuple[Metric, int]] = [  # with the number of classes; 0: numbers
    (micro_f1(LABELS, "no_relation"), 4),
    (macro_f1(LABELS), 4),
    (GLUE_METRICS["accuracy"], 3),
    (GLUE_METRICS["F1"], 2),
    (GLUE_METRICS["Matthews"], 2),
    (GLUE_METRICS["Pearson"], 0),
    (GLUE_METRICS["Spearman"], 0),
]


def random_rows(classes: int, random: np.random.Generator) -> np.ndarray:
    if classes:
        gold = random.integers(classes, size=60)
        predicted = np.where(random.random(60) < 0.6, gold, random.integers(classes, size=60))
        return np.stack([predicted, gold], axis=1).astype(float)
    gold = random.integers(11, size=60) / 2  # ties, as STS-B has
    return np.stack([gold + 3 + np.round(random.normal(size=60), 1), gold], axis=1)


@pytest.mark.parametrize(("metric", "classes"), METRICS, ids=lambda value: getattr(value, "name", None))
def test_metrics_are_those_of_the_libraries_also_on_resamples(metric: Metric, classes: int) -> None:
    random = np.random.default_rng(0)
    found = random_rows(classes, random)
    assert metric(found) == pytest.approx(100 * by_library(metric.name, found), abs=1e-9)
    clusters = random.integers(8, size=60)
    clusters[:8] = np.arange(8)
    weights = random.multinomial(7, np.full(8, 1 / 8), size=20)
    expected = [100 * by_library(metric.name, np.repeat(found, drawn[clusters], axis=0)) for drawn in weights]
    np.testing.assert_allclose(
        metric.resampler(found, clusters, 8)(weights.astype(float)), expected, atol=1e-9
    )


@pytest.mark.parametrize("name", ["Matthews", "Pearson", "Spearman"])
@pytest.mark.filterwarnings("error")
def test_constant_predictions_have_no_correlation(name: str) -> None:
    found = np.array([glue_row(1, label) for label in (0, 1, 1, 0)])
    assert GLUE_METRICS[name](found) == 0
    assert GLUE_METRICS[name].resampler(found, np.arange(4), 4)(np.array([[1.0, 0, 0, 2]])) == 0
    assert GLUE_METRICS[name](np.ones((4, 2))) == 0  # all right, and all of one class


def test_every_task_of_glue_has_its_metrics() -> None:
    named = {task.name: set(task.metrics) for task in GLUE_TASKS.values()}
    assert named["cola"] == {"Matthews"} and named["sts-b"] == {"Pearson", "Spearman"}
    for metrics in named.values():
        assert metrics <= GLUE_METRICS.keys()


def test_gap_scores_names_by_gender() -> None:
    answers = [
        ("A", "A", "feminine"),
        ("B", "A", "feminine"),
        ("A", "neither", "masculine"),
        ("B", "B", "masculine"),
        ("neither", "neither", "masculine"),
    ]
    found = np.array([gap_row(*answer) for answer in answers])
    scores = {name: metric(found) for name, metric in GAP_METRICS.items()}
    assert scores["F1"] == pytest.approx(100 * 2 * 2 / (4 + 3)) and scores["accuracy"] == pytest.approx(60)
    assert scores["F1 feminine"] == pytest.approx(100 * 2 * 1 / (2 + 2))
    assert scores["F1 masculine"] == pytest.approx(100 * 2 * 1 / (2 + 1))
    with pytest.raises(ValueError, match="predicted is 'C'; expected A, B or neither"):
        gap_row("C", "A", "feminine")
    with pytest.raises(ValueError, match="gender is 'she'"):
        gap_row("A", "A", "she")
