"""What the model returns, and the metrics of an evaluation made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from transformers.utils.generic import ModelOutput


@dataclass
class SpanBertForPreTrainingOutput(ModelOutput):
    """Losses in nats; `loss` alone carries a gradient. The SBO's fields are None where there was no SBO.

    `row_statistics` holds, per row, the sums over its targets: MLM nll, targets, correct; SBO nll, targets,
    correct. Sums stay exact however an evaluation is cut into batches and gathered; `span_metrics` makes
    means of them.
    """

    loss: Tensor | None = None  # []
    mlm_loss: Tensor | None = None  # []
    sbo_loss: Tensor | None = None  # []
    mlm_count: Tensor | None = None  # [] int64
    sbo_count: Tensor | None = None  # [] int64
    mlm_accuracy: Tensor | None = None  # []
    sbo_accuracy: Tensor | None = None  # []
    row_statistics: Tensor | None = None  # [B, 6]
    mlm_prediction: Tensor | None = None  # [B, K] int64, -1 where there is no target
    sbo_prediction: Tensor | None = None  # [B, K]
    logits: Tensor | None = None  # [B, L, V]
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


# Trainer gathers every other output over the whole evaluation: `compute_metrics` sees `row_statistics` alone.
IGNORED_AT_INFERENCE = [
    *("mlm_loss", "sbo_loss", "mlm_count", "sbo_count", "mlm_accuracy", "sbo_accuracy"),
    *("mlm_prediction", "sbo_prediction"),
]


def span_metrics(evaluation: Any) -> dict[str, float]:
    """Token-weighted means over a whole evaluation, for `Trainer(compute_metrics=span_metrics)`.

    Args: evaluation: transformers' `EvalPrediction`, whose predictions are the gathered `row_statistics` [N,
        6], alone or first in a tuple, or a list of them.

    Returns:
        `mlm_loss`, `mlm_accuracy`, `sbo_loss`, `sbo_accuracy`; a head without any target has no entry.

    Raises:
        ValueError: predictions of another shape.
    """
    statistics = evaluation.predictions
    if isinstance(statistics, tuple):
        statistics = statistics[0]
    if isinstance(statistics, list):
        statistics = np.concatenate(statistics)
    if np.ndim(statistics) != 2 or np.shape(statistics)[1] != 6:
        raise ValueError(
            f"span_metrics expects row_statistics [N, 6] as predictions, found shape {np.shape(statistics)}: "
            "the model got no masked batch"
        )
    total = np.asarray(statistics, dtype=np.float64).sum(0)
    metrics = {}
    for head, (nll, count, correct) in {"mlm": total[:3], "sbo": total[3:]}.items():
        if count > 0:
            metrics[f"{head}_loss"] = float(nll / count)
            metrics[f"{head}_accuracy"] = float(correct / count)
    return metrics
