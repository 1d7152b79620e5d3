# SPDX-License-Identifier: Apache-2.0
"""How held-out rows are masked and judged: under the run's own law and under the two that all runs share, spans and
tokens; and how many tokens of spans of each length are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction, PreTrainedTokenizerBase

from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.models.output import span_metrics
from spanbert_ext.pretrain.run.evaluations import LENGTHS, laws_of
from spanbert_ext.pretrain.settings.masking_options import MASKINGS

_COUNTS = 4  # of a bin: targets and correct ones of the MLM, of the SBO


class LawCollator:
    """A collator of held-out rows under a law of its own: candidates of the rows are not looked at."""

    def __init__(self, collator: DataCollatorForSpanMasking) -> None:
        self.collator = collator

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        return self.collator(
            [{name: value for name, value in row.items() if name != "candidates"} for row in rows]
        )


def shared_law_collators(
    tokenizer: PreTrainedTokenizerBase, own: DataCollatorForSpanMasking, masking: str
) -> dict[str, LawCollator]:
    """A collator for each of the shared laws but the run's own `masking`. They mask in one epoch, forever, under the
    seed and ratio of `own`."""
    return {
        law: LawCollator(
            DataCollatorForSpanMasking(
                tokenizer,
                seed=own.seed,
                ratio=own.masker.ratio,
                position_slots=own.masker.position_slots,
                kinds=own.kinds,
                epoch=0,
                **MASKINGS[law],
            )
        )
        for law in laws_of(masking)[1:]
    }


def length_statistics(outputs: Mapping[str, Any], batch: Mapping[str, Tensor]) -> Tensor:
    """Float32 [B, 32]: of each bin of span lengths the targets and the correct ones, of the MLM and of the SBO.

    outputs: the model's, with `mlm_prediction` [B, K] and perhaps `sbo_prediction` [B, K], -1 where there is no target.
    batch: with `masked_positions` [B, K] and `labels` [B, L]. A span is a maximal run of masked positions."""
    positions = batch["masked_positions"]
    lengths = run_lengths(positions)  # [B, K]
    edges = torch.tensor([*LENGTHS.values()][1:], device=positions.device)
    bins = torch.bucketize(lengths, edges, right=True)  # [B, K]
    targets = batch["labels"].gather(1, positions.clamp_min(0))  # [B, K]
    statistics = torch.zeros(len(positions), _COUNTS, len(LENGTHS), device=positions.device)
    for place, head in enumerate(("mlm", "sbo")):
        prediction = outputs.get(f"{head}_prediction")
        if prediction is None:
            continue
        live = (prediction >= 0) & (positions >= 0)
        for offset, counted in enumerate((live, live & (prediction == targets))):
            statistics[:, 2 * place + offset].scatter_add_(1, bins, counted.float())
    return statistics.flatten(1)


def run_lengths(positions: Tensor) -> Tensor:
    """[B, K]: the length of the run of consecutive positions that each entry belongs to; 0 where it is -1.

    positions: [B, K] int64, ascending in each row and padded with -1."""
    live = positions >= 0
    begins = live.clone()  # [B, K] whether a run begins
    begins[:, 1:] &= positions[:, 1:] != positions[:, :-1] + 1
    runs = (begins.cumsum(1) - 1).clamp_min(0)  # [B, K] the number of the run in its row
    sizes = torch.zeros_like(positions).scatter_add_(1, runs, live.to(positions.dtype))
    return sizes.gather(1, runs).where(live, 0)


def held_out_metrics(evaluation: EvalPrediction) -> dict[str, float]:
    """`span_metrics`, and of each bin of span lengths `count_length_N`, `mlm_accuracy_length_N` and
    `sbo_accuracy_length_N`, for the bins that there are.

    evaluation: its predictions end with `length_statistics` [N, 32]."""
    *statistics, lengths = evaluation.predictions
    metrics = span_metrics(EvalPrediction(predictions=tuple(statistics), label_ids=evaluation.label_ids))
    sums = np.asarray(lengths, dtype=np.float64).sum(0).reshape(_COUNTS, len(LENGTHS))
    for name, (count, right, sbo_count, sbo_right) in zip(LENGTHS, sums.T.tolist(), strict=True):
        if count:
            metrics[f"count_length_{name}"] = int(count)
            metrics[f"mlm_accuracy_length_{name}"] = right / count
        if sbo_count:
            metrics[f"sbo_accuracy_length_{name}"] = sbo_right / sbo_count
    return metrics
