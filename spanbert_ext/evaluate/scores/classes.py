"""Scores of classes, over rows (predicted class, gold class): relations."""

from __future__ import annotations

from collections.abc import Sequence

from spanbert_ext.evaluate.scores.metric import Metric


def class_row(predicted: int, gold: int) -> tuple[float, float]:
    """The row of an item: numbers of the classes."""
    raise NotImplementedError


def accuracy() -> Metric:
    """Share of items whose class is right."""
    raise NotImplementedError


def micro_f1(labels: Sequence[str], negative: str | None) -> Metric:
    """F1 of precision and recall over all items; `negative`, a class of `labels`, counts neither as predicted nor as
    gold (TACRED's rule). Without one it is the accuracy."""
    raise NotImplementedError


def macro_f1(labels: Sequence[str]) -> Metric:
    """Mean over the classes that occur, as gold or predicted, of each class's F1."""
    raise NotImplementedError


def semeval_macro_f1(labels: Sequence[str]) -> Metric:
    """SemEval-2010 task 8's official score: mean over the nine relations of each one's F1 with direction, without
    Other. Labels are those of `data.relations.SEMEVAL_LABELS` in any order."""
    raise NotImplementedError
