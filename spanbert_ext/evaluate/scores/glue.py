"""GLUE's metrics, over rows (prediction, label)."""

from __future__ import annotations

from spanbert_ext.evaluate.scores.metric import Metric


def glue_row(prediction: float, label: float) -> tuple[float, float]:
    """The row of an example: number of the predicted class and of the right one, or both scores (STS-B)."""
    raise NotImplementedError


# By name: "accuracy", "F1" (of class 1), "Matthews", "Pearson", "Spearman".
GLUE_METRICS: dict[str, Metric] = {}
