# SPDX-License-Identifier: Apache-2.0
"""What the model returns, and the metrics of an evaluation made of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils.generic import ModelOutput

from spanbert_ext.masking.trainer_frames import trainer_frame
from spanbert_ext.models.evaluation import MARK


@dataclass
class SpanBertForPreTrainingOutput(ModelOutput):
    """Losses in nats; `loss` alone carries a gradient. A head's fields are None where it predicted nothing.

    As a tuple, and by integers, it is the native class's: loss, logits, those of the NSP, hidden states, attentions,
    those of them that there are.

    `row_statistics` holds, per row, the sums over its targets: MLM nll, targets, correct; SBO nll, targets,
    correct; `nsp_statistics` those of the NSP, and how many targets are random. Sums stay exact however an
    evaluation is cut into batches and gathered; `span_metrics` makes means of them. In evaluation they are None where
    logits come unasked, as of the native class.
    """

    loss: Tensor | None = None  # []
    logits: Tensor | None = None  # [B, L, V]
    row_statistics: Tensor | None = None  # [B, 6]
    nsp_statistics: Tensor | None = None  # [B, 4]
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    mlm_loss: Tensor | None = None  # []
    sbo_loss: Tensor | None = None  # []
    mlm_count: Tensor | None = None  # [] int64
    sbo_count: Tensor | None = None  # [] int64
    mlm_accuracy: Tensor | None = None  # []
    sbo_accuracy: Tensor | None = None  # []
    mlm_prediction: Tensor | None = None  # [B, K] int64, -1 where there is no target
    sbo_prediction: Tensor | None = None  # [B, K]
    seq_relationship_logits: Tensor | None = None  # [B, 2] of a model with an NSP head: continues, random
    nsp_loss: Tensor | None = None  # []
    nsp_count: Tensor | None = None  # [] int64
    nsp_accuracy: Tensor | None = None  # []
    nsp_prediction: Tensor | None = None  # [B] int64, 1: random, -1 where there is no target

    @property
    def prediction_logits(self) -> Tensor | None:
        """`logits`, as the native class with an NSP head calls them."""
        return self.logits

    def to_tuple(self) -> tuple[Any, ...]:
        logits = () if self.logits is None else (self.logits, self.seq_relationship_logits)
        native = (self.loss, *logits, self.hidden_states, self.attentions)
        return tuple(x for x in native if x is not None)


# Trainer gathers every other output over the whole evaluation, and reads this list before it calls the model: what
# `compute_metrics` sees, logits or statistics, is therefore a question of which of them the output has.
IGNORED_AT_INFERENCE = [
    *("mlm_loss", "sbo_loss", "mlm_count", "sbo_count", "mlm_accuracy", "sbo_accuracy"),
    *("mlm_prediction", "sbo_prediction"),
    *("seq_relationship_logits", "nsp_loss", "nsp_count", "nsp_accuracy", "nsp_prediction"),
]

_SUMS = "sums of span_metrics"  # among the locals of an evaluation, where no variable can have this name


def span_metrics(evaluation: Any, compute_result: bool | None = None) -> dict[str, float]:
    """Token-weighted means over a whole evaluation, for `Trainer(compute_metrics=span_metrics)`.

    The model then gives no logits, which `evaluation_logits="auto"` finds out: by this function, a `functools.partial`
    or wrapper of it, or a function that names it. An attribute `reads_row_statistics` of any other
    `compute_metrics` decides otherwise.

    Args:
        evaluation: transformers' `EvalPrediction`, whose predictions are the gathered `row_statistics` [N,
            6], alone or first in a tuple, before `nsp_statistics` [N, 4], or a list of them; or logits [N, L, V], which
            with `label_ids` [N, L] give the MLM's numbers.
        compute_result: passed by Trainer under `TrainingArguments(batch_eval_metrics=True)`, which hands over batch by
            batch: False adds a batch up, True is the last one's. The sums belong to that evaluation alone, and end
            with it, also when it is aborted. None: `evaluation` is the whole.

    Returns:
        `mlm_loss`, `mlm_accuracy`, `sbo_loss`, `sbo_accuracy`, `nsp_loss`, `nsp_accuracy`; a head without any target
        has no entry. Beside the last `nsp_count`, the pairs, and `nsp_majority_rate`, the accuracy of who always gives
        the answer that is more frequent among them. Nothing where compute_result is False.

    Raises:
        ValueError: predictions of another shape; logits whose labels do not fit; compute_result outside of a Trainer's
            evaluation.
    """
    batches = _batches(evaluation.predictions, getattr(evaluation, "label_ids", None))
    total = sum((_batch_sums(*batch) for batch in batches), start=np.zeros(10))
    if compute_result is not None:
        total = _running_sums(total)
        if not compute_result:
            return {}
    metrics = {}
    for head, (nll, count, correct) in {"mlm": total[:3], "sbo": total[3:6], "nsp": total[6:9]}.items():
        if count > 0:
            metrics[f"{head}_loss"] = float(nll / count)
            metrics[f"{head}_accuracy"] = float(correct / count)
    pairs, random = total[7], total[9]
    if pairs > 0:
        metrics["nsp_count"] = int(pairs)
        metrics["nsp_majority_rate"] = float(max(random, pairs - random) / pairs)
    return metrics


setattr(span_metrics, MARK, True)


def _batches(predictions: Any, labels: Any) -> Iterator[tuple[Any, Any, Any]]:
    """The parts of an evaluation: a list of them with `eval_do_concat_batches=False`, else the whole.

    Of each the first prediction, the second one, if any, and the labels.
    """
    if not isinstance(predictions, list):
        predictions, labels = [predictions], [labels]
    if not isinstance(labels, list):
        labels = [None] * len(predictions)
    for batch, its_labels in zip(predictions, labels, strict=True):
        first, second, *_ = (*batch, None, None) if isinstance(batch, tuple) and batch else (batch, None)
        yield first, second, its_labels[0] if isinstance(its_labels, tuple) and its_labels else its_labels


def _batch_sums(predictions: Any, second: Any, labels: Any) -> np.ndarray:
    """Float64 [10] of `row_statistics` [N, 6], with or without `nsp_statistics` [N, 4], or of logits [N, L, V] and
    labels [N, L]."""
    sums, shape = np.zeros(10), np.shape(predictions)
    values = torch.as_tensor(predictions) if shape else torch.empty(0)
    if len(shape) == 2 and shape[1] == 6 and values.is_floating_point():  # not the ids of an argmax
        sums[:6] = values.cpu().double().sum(0).numpy()
        if not isinstance(second, tuple) and np.shape(second) == (shape[0], 4):  # hidden states are a tuple
            sums[6:] = torch.as_tensor(second).cpu().double().sum(0).numpy()
        return sums
    if len(shape) != 3:
        raise ValueError(
            f"span_metrics expects row_statistics [N, 6] or logits [N, L, V] as predictions, found shape {shape}: the "
            "model got no masked batch, or preprocess_logits_for_metrics made something else of them"
        )
    if np.shape(labels) != shape[:2]:
        raise ValueError(
            f"span_metrics got logits of shape {shape}, but label_ids of shape {np.shape(labels)}"
        )
    _warn_of_logits()
    for row, targets in zip(values, torch.as_tensor(labels), strict=True):
        live = targets >= 0  # [L]; rows that were padded to one length have a label of -100 there
        scores, targets = row[live], targets[live]  # [M, V], [M]
        scores = scores if scores.dtype == torch.float64 else scores.float()
        nll = F.cross_entropy(scores, targets, reduction="none").cpu().double().sum()
        sums[:3] += [float(nll), len(targets), int((scores.argmax(-1) == targets).sum())]
    return sums


def _warn_of_logits() -> None:
    """Where the evaluated model has an SBO and was not told to give logits: it did not see who reads them."""
    loop = trainer_frame("evaluation_loop")
    trainer = None if loop is None else loop.f_locals["self"]
    if getattr(getattr(trainer, "model", None), "sbo", None) is None:
        return
    option = trainer.model.config.span_pretraining.get("evaluation_logits", "auto")
    if option == "auto":
        warnings.warn(
            "span_metrics got logits, which are large and say nothing of the SBO. The model gave them because "
            "compute_metrics does not name span_metrics itself, compute_loss or prediction_step is your own, or it is "
            "compiled as a whole, in nn.DataParallel or returns tuples. Give it evaluation_logits=False, or True if "
            "logits are what you want",
            stacklevel=4,
        )


def _running_sums(batch: np.ndarray) -> np.ndarray:
    """[10] of this evaluation's batches so far, this one included.

    They stand among the locals of the loop that hands the batches over: what an evaluation that was aborted left
    cannot come into the next one, and threads have their own.
    """
    loop = trainer_frame("evaluation_loop")
    if loop is None:
        raise ValueError(
            "span_metrics got compute_result outside of a Trainer's evaluation: elsewhere keep row_statistics [B, 6] "
            "of all batches and call it once without"
        )
    names = loop.f_locals
    names[_SUMS] = names.get(_SUMS, 0) + batch
    return names[_SUMS]
