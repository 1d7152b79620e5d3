# SPDX-License-Identifier: Apache-2.0
"""Scores of classes, over rows (number of the predicted class, number of the right one)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from spanbert_ext.evaluate.scores.metric import Metric, SumMetric, f1, ratio


def class_row(predicted: int, gold: int) -> tuple[float, float]:
    """The row of an item: numbers of the classes."""
    return float(predicted), float(gold)


def accuracy() -> Metric:
    """Share of items whose class is right."""

    def features(rows: np.ndarray) -> np.ndarray:
        return np.stack([rows[:, 0] == rows[:, 1], np.ones(len(rows))], axis=1).astype(float)

    return SumMetric(
        "accuracy",
        features,
        lambda sums: ratio(sums[..., 0], sums[..., 1], empty=np.nan),
        library=lambda rows: accuracy_score(rows[:, 1], rows[:, 0]) if len(rows) else np.nan,
    )


def counts(numbers: Sequence[int]) -> Callable[[np.ndarray], np.ndarray]:
    """Features [N, 3 L]: for each of the L classes whether an item is rightly of it, predicted and gold."""

    def features(rows: np.ndarray) -> np.ndarray:
        predicted = rows[:, :1] == np.asarray(numbers)  # [N, L]
        gold = rows[:, 1:] == np.asarray(numbers)
        return np.concatenate([predicted & gold, predicted, gold], axis=1).astype(float)

    return features


def _split(sums: np.ndarray) -> list[np.ndarray]:
    """Right, predicted and gold of every class, each [..., L]."""
    return np.split(sums, 3, axis=-1)


def _numbers(labels: Sequence[str], without: str | None) -> list[int]:
    if len(set(labels)) != len(labels):
        raise ValueError(f"labels are {list(labels)}; expected each once")
    if without is not None and without not in labels:
        raise ValueError(f"the negative class is {without!r}; expected one of {', '.join(labels)}")
    return [number for number, label in enumerate(labels) if label != without]


def micro_f1(labels: Sequence[str], negative: str | None) -> Metric:
    """F1 of precision and recall over all items; `negative`, a class of `labels`, counts neither as predicted nor as
    gold (TACRED's rule). Without one it is the accuracy."""
    numbers = _numbers(labels, negative)
    return SumMetric(
        "micro F1",
        counts(numbers),
        lambda sums: f1(*(part.sum(axis=-1) for part in _split(sums))),
        library=lambda rows: f1_score(
            rows[:, 1], rows[:, 0], labels=numbers, average="micro", zero_division=0.0
        ),
    )


def macro_f1(labels: Sequence[str]) -> Metric:
    """Mean over the classes that occur, as gold or predicted, of each class's F1."""

    def of_sums(sums: np.ndarray) -> np.ndarray:
        right, predicted, gold = _split(sums)
        occurs = predicted + gold > 0
        return ratio(f1(right, predicted, gold).sum(axis=-1), occurs.sum(axis=-1))

    return SumMetric(
        "macro F1",
        counts(_numbers(labels, None)),
        of_sums,
        library=lambda rows: f1_score(rows[:, 1], rows[:, 0], average="macro", zero_division=0.0),
    )


def semeval_macro_f1(labels: Sequence[str]) -> Metric:
    """SemEval-2010 task 8's official score: mean, over the relations that occur as gold, of each one's F1, without
    Other. A relation in the wrong direction is wrong, but predicted and gold count both directions together. `labels`
    are names with directions, "Cause-Effect(e1,e2)", and "Other"."""
    directed = _numbers(labels, "Other")
    names = [labels[number].partition("(")[0] for number in directed]
    relations = sorted(set(names))
    joins = np.array([[name == relation for relation in relations] for name in names], dtype=float)  # [L, R]

    def of_sums(sums: np.ndarray) -> np.ndarray:
        right, predicted, gold = (part @ joins for part in _split(sums))
        occurs = gold > 0  # the official scorer passes over a relation that its key does not have
        return ratio((occurs * f1(right, predicted, gold)).sum(axis=-1), occurs.sum(axis=-1))

    return SumMetric("official macro F1", counts(directed), of_sums)
