# SPDX-License-Identifier: Apache-2.0
"""What the operators return: named tuples of tensors, shared by both implementations."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class SpanMaskOutput(NamedTuple):
    """K = ceil(ratio * L). Unused entries of the `[B, K]` tensors are -1; used ones come first, by position.

    Attributes:
        masked_ids: `[B, L]`, the dtype of `input_ids`, the ids after replacement.
        labels: int64 `[B, L]`, the original id at masked positions, -100 elsewhere.
        masked_positions: int64 `[B, K]`, the position of each masked token.
        left_boundary, right_boundary: int64 `[B, K]`, the positions just outside the token's span; both -1 when
            the token has no SBO target. Its position slot is `masked_positions - left_boundary - 1`.
    """

    masked_ids: Tensor
    labels: Tensor
    masked_positions: Tensor
    left_boundary: Tensor
    right_boundary: Tensor


class VocabCEOutput(NamedTuple):
    """What `vocab_ce` returns; only `loss` carries a gradient."""

    loss: Tensor  # [] sum(row_weight * nll)
    nll: Tensor  # [N] natural log; 0 where the target is negative
    prediction: Tensor  # [N] int64, arg max of the logits; -1 where the target is negative


class HeadTargets(NamedTuple):
    """Rows for `vocab_ce`: first R of the MLM, then, with boundaries, B*K of the SBO."""

    token_rows: Tensor  # [R] int64, b*L + position of each MLM row, in order; -1 behind the last one
    ranks: Tensor  # [B, K] int64, the MLM row of each entry, or -1
    targets: Tensor  # [N] int64, N = R + B*K or R; negative where nothing is predicted
    row_weight: Tensor  # [N] float32 or float64, 0 there
    counts: Tensor  # [2] int64, rows with a target of the MLM and of the SBO


class HeadStatistics(NamedTuple):
    """What `vocab_ce` found for the rows of `head_targets`, by batch row and over the batch."""

    row_statistics: Tensor  # [B, 6] sums: MLM nll, rows, correct; SBO nll, rows, correct
    means: Tensor  # [4] mean MLM nll, mean SBO nll, MLM accuracy, SBO accuracy; 0 over no rows
    mlm_prediction: Tensor  # [B, K] int64, -1 where there is no target
    sbo_prediction: Tensor  # [B, K]


class SpanPretrainingOutput(NamedTuple):
    """Only `loss` carries a gradient. Losses are in nats, each a mean over its own head's rows of this batch."""

    loss: Tensor  # []
    mlm_loss: Tensor  # []
    sbo_loss: Tensor  # []
    mlm_count: Tensor  # [] int64, rows with an MLM target
    sbo_count: Tensor  # [] int64
    mlm_accuracy: Tensor  # [] share of rows whose arg max is the target; 0 without rows
    sbo_accuracy: Tensor  # []
    row_statistics: Tensor  # [B, 6] sums: MLM nll, rows, correct; SBO nll, rows, correct
    mlm_prediction: Tensor  # [B, K] int64, -1 where there is no target
    sbo_prediction: Tensor  # [B, K]

    @classmethod
    def of(cls, loss: Tensor, counts: Tensor, found: HeadStatistics) -> SpanPretrainingOutput:
        """From `vocab_ce`'s loss, `HeadTargets.counts` and what `head_statistics` found."""
        mlm_loss, sbo_loss, mlm_accuracy, sbo_accuracy = found.means.unbind()
        mlm_count, sbo_count = counts.unbind()
        return cls(
            loss,
            mlm_loss=mlm_loss,
            sbo_loss=sbo_loss,
            mlm_count=mlm_count,
            sbo_count=sbo_count,
            mlm_accuracy=mlm_accuracy,
            sbo_accuracy=sbo_accuracy,
            row_statistics=found.row_statistics,
            mlm_prediction=found.mlm_prediction,
            sbo_prediction=found.sbo_prediction,
        )
