"""Every operator in plain PyTorch, with the same names and arguments: the specification of the semantics, the
oracle of the tests and the baseline of the benchmarks."""

from functools import partial

from spanbert_ext import ops
from spanbert_ext.reference.boundary_mlp import boundary_mlp
from spanbert_ext.reference.head_targets import head_statistics, head_targets
from spanbert_ext.reference.span_mask import span_mask
from spanbert_ext.reference.vocab_ce import vocab_ce

# The composition is plain PyTorch already; only the operators inside it change.
span_pretraining_loss = partial(ops.span_pretraining_loss, impl="reference")

__all__ = [
    "boundary_mlp",
    "head_statistics",
    "head_targets",
    "span_mask",
    "span_pretraining_loss",
    "vocab_ce",
]
