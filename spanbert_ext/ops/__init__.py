# SPDX-License-Identifier: Apache-2.0
"""The operators as plain functions. Each takes impl="fused" (default) or impl="reference" (plain PyTorch)."""

from spanbert_ext.ops.boundary_mlp import boundary_mlp
from spanbert_ext.ops.head_targets import head_statistics, head_targets
from spanbert_ext.ops.span_mask import span_mask
from spanbert_ext.ops.span_pretraining_loss import span_pretraining_loss
from spanbert_ext.ops.vocab_ce import vocab_ce
from spanbert_ext.reference.outputs import (
    HeadStatistics,
    HeadTargets,
    SpanMaskOutput,
    SpanPretrainingOutput,
    VocabCEOutput,
)

__all__ = [
    "HeadStatistics",
    "HeadTargets",
    "SpanMaskOutput",
    "SpanPretrainingOutput",
    "VocabCEOutput",
    "boundary_mlp",
    "head_statistics",
    "head_targets",
    "span_mask",
    "span_pretraining_loss",
    "vocab_ce",
]
