# SPDX-License-Identifier: Apache-2.0
"""Every operator in plain PyTorch, with the same names and arguments: the specification of the semantics, the
oracle of the tests and the baseline of the benchmarks."""

from spanbert_ext.reference.boundary_mlp import boundary_mlp
from spanbert_ext.reference.head_targets import head_statistics, head_targets
from spanbert_ext.reference.span_mask import span_mask
from spanbert_ext.reference.span_pretraining_loss import span_pretraining_loss
from spanbert_ext.reference.vocab_ce import vocab_ce

__all__ = [
    "boundary_mlp",
    "head_statistics",
    "head_targets",
    "span_mask",
    "span_pretraining_loss",
    "vocab_ce",
]
