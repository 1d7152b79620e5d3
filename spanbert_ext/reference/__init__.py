"""Every operator in plain PyTorch, with the same names and arguments: the specification of the semantics, the
oracle of the tests and the baseline of the benchmarks."""

from spanbert_ext.reference.boundary_mlp import boundary_mlp
from spanbert_ext.reference.vocab_ce import vocab_ce

__all__ = ["boundary_mlp", "vocab_ce"]
