"""The span-boundary head as a module (paper section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spanbert_ext.ops._common import Impl
from spanbert_ext.ops.boundary_mlp import boundary_mlp

_INITIAL_STD = 0.02  # BERT's initializer_range


class SpanBoundaryHead(nn.Module):
    """Predicts each token of a masked span from the two tokens outside the span and its position inside.

    `y = f(x[s-1], x[e+1], p[i-s])`, f = (Linear, exact GELU, LayerNorm) twice. y goes through the model's own
    decoder matrix to the vocabulary; only the bias there is this head's.

    Args:
        hidden_size: H, width of the encoder outputs.
        output_size: D, width of the decoder matrix (the embedding size of ELECTRA and ALBERT, else H).
        vocab_size: V.
        position_dim: P, width of the relative position embeddings (200 in the paper).
        position_slots: S, the table's rows: tokens further into a span have no span-boundary target.
        eps: of both LayerNorms.

    Attributes:
        position_embeddings: Embedding [S, P].
        dense1, norm1: Linear 2H+P -> H, LayerNorm over H.
        dense2, norm2: Linear H -> D, LayerNorm over D.
        bias: [V], the vocabulary bias for `ops.span_pretraining_loss`; not used in forward.
        gives_token_rows: whether forward takes `token_rows`; `ops.span_pretraining_loss` asks.

    Raises:
        ValueError: a size below 1.
    """

    gives_token_rows = True

    def __init__(
        self,
        hidden_size: int,
        output_size: int,
        vocab_size: int,
        position_dim: int = 200,
        position_slots: int = 20,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        sizes = {
            "hidden_size": hidden_size,
            "output_size": output_size,
            "vocab_size": vocab_size,
            "position_dim": position_dim,
            "position_slots": position_slots,
        }
        for name, size in sizes.items():
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"SpanBoundaryHead: {name} is {size!r}, expected an integer of at least 1")
        self.position_embeddings = nn.Embedding(position_slots, position_dim)
        self.dense1 = nn.Linear(2 * hidden_size + position_dim, hidden_size)
        self.norm1 = nn.LayerNorm(hidden_size, eps=eps)
        self.dense2 = nn.Linear(hidden_size, output_size)
        self.norm2 = nn.LayerNorm(output_size, eps=eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weights normal with standard deviation 0.02, biases zero, LayerNorms the identity, as in BERT."""
        for matrix in (self.position_embeddings.weight, self.dense1.weight, self.dense2.weight):
            matrix.normal_(std=_INITIAL_STD)
        for bias in (self.dense1.bias, self.dense2.bias, self.bias):
            bias.zero_()
        self.norm1.reset_parameters()
        self.norm2.reset_parameters()

    def forward(
        self,
        x: Tensor,
        masked_positions: Tensor,
        left_boundary: Tensor,
        right_boundary: Tensor,
        impl: Impl = "fused",
        max_rows: int | None = None,
        token_rows: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """[B, L, H] and three [B, K] index tensors -> [B, K, D] in x's dtype; see `ops.boundary_mlp`.

        `max_rows`, a bound of how many tokens have a target, spares CUDA work. With `token_rows`, int64 [R], the
        result is a pair: that and those tokens' rows of x, [R, H].

        Raises:
            ValueError: x is not [B, L, hidden_size].
            ValueError, TypeError, IndexError: as `ops.boundary_mlp`.
        """
        hidden = self.dense1.out_features
        if x.dim() != 3 or x.shape[-1] != hidden:
            raise ValueError(f"SpanBoundaryHead: x has shape {list(x.shape)}, expected [B, L, {hidden}]")
        return boundary_mlp(
            x,
            masked_positions,
            left_boundary,
            right_boundary,
            self.position_embeddings.weight,
            self.dense1.weight,
            self.dense1.bias,
            self.norm1.weight,
            self.norm1.bias,
            self.dense2.weight,
            self.dense2.bias,
            self.norm2.weight,
            self.norm2.bias,
            eps=self.norm1.eps,
            max_rows=max_rows,
            token_rows=token_rows,
            impl=impl,
        )

    def extra_repr(self) -> str:
        return f"vocab_size={self.bias.shape[0]}"
