# SPDX-License-Identifier: Apache-2.0
"""The span-boundary head as a module (paper section 2.2)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spanbert_ext.models.fused_path import global_hooks, not_readable, warn_once
from spanbert_ext.ops._common import Impl, check_tensors, integer, may_read_values, real
from spanbert_ext.ops.boundary_mlp import boundary_mlp

_INITIAL_STD = 0.02  # BERT's initializer_range
_PARTS = {
    "position_embeddings": nn.Embedding,
    "dense1": nn.Linear,
    "norm1": nn.LayerNorm,
    "dense2": nn.Linear,
    "norm2": nn.LayerNorm,
}


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
        gives_token_rows: forward takes `token_rows`; `ops.span_pretraining_loss` reads it.

    Raises:
        ValueError: a size below 1, or of 2^31 and more.
        TypeError: eps is no number.
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
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"SpanBoundaryHead: {name} is {size!r}, expected an integer of at least 1")
            if size >= 2**31:
                raise ValueError(f"SpanBoundaryHead: {name} is {size}, expected less than 2^31")
        eps = real("SpanBoundaryHead: eps", eps)
        self.hidden_size = hidden_size
        self.position_slots = position_slots
        self.position_embeddings = nn.Embedding(position_slots, position_dim)
        self.dense1 = nn.Linear(2 * hidden_size + position_dim, hidden_size)
        self.norm1 = nn.LayerNorm(hidden_size, eps=eps)
        self.dense2 = nn.Linear(hidden_size, output_size)
        self.norm2 = nn.LayerNorm(output_size, eps=eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, init: Any = nn.init, std: float = _INITIAL_STD) -> None:
        """Weights normal with standard deviation `std`, biases zero, LayerNorms the identity, as in BERT.

        Args:
            init: torch's functions, or others of their names, as transformers' that leave loaded values alone.
        """
        for matrix in (self.position_embeddings.weight, self.dense1.weight, self.dense2.weight):
            init.normal_(matrix, std=std)
        for bias in (self.dense1.bias, self.dense2.bias, self.norm1.bias, self.norm2.bias, self.bias):
            init.zeros_(bias)
        for scale in (self.norm1.weight, self.norm2.weight):
            init.ones_(scale)

    @property
    def untrained(self) -> bool:
        """Whether LayerNorms and biases, but for the vocabulary's, are those of `reset_parameters`: the first step of
        training changes them. False where that cannot be read off, as of wrapped or offloaded modules."""
        for name, exact in _PARTS.items():
            part = getattr(self, name)
            if type(part) is not exact or part.weight.is_meta:
                return False
            if exact is nn.LayerNorm and not bool((part.weight == 1).all()):
                return False
            if exact is not nn.Embedding and bool(part.bias.any()):
                return False
        return True

    def forward(
        self,
        x: Tensor,
        masked_positions: Tensor,
        left_boundary: Tensor,
        right_boundary: Tensor,
        impl: Impl = "fused",
        max_rows: int | None = None,
        token_rows: Tensor | None = None,
        with_bias: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """[B, L, H] and three [B, K] index tensors -> [B, K, D] in x's dtype; see `ops.boundary_mlp`.

        The fused operator reads the parameters of the five modules. Where one of them is not torch's own class, has
        hooks or is elsewhere (LoRA, quantised, offloaded), all are called on the gathered rows instead, with a warning.

        Args:
            max_rows: a bound of how many tokens have a target; it spares CUDA work.
            token_rows: int64 [R]; the result is a pair then: that, and those tokens' rows of x, [R, H].
            with_bias: the result has one element more, a copy of `bias` [V], which an offloaded or sharded module holds
                in its forward alone.

        Raises:
            ValueError: x is not [B, L, hidden_size].
            ValueError, TypeError, IndexError: as `ops.boundary_mlp`.
        """
        check_tensors("SpanBoundaryHead", {"x": x})
        if x.dim() != 3 or x.shape[-1] != self.hidden_size:
            raise ValueError(
                f"SpanBoundaryHead: x has shape {list(x.shape)}, expected [B, L, {self.hidden_size}]"
            )
        indices = (masked_positions, left_boundary, right_boundary)
        unknown = self._unknown_module(x)
        if unknown is None:
            y = boundary_mlp(
                x,
                *indices,
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
        else:
            warn_once(*unknown, "the span-boundary head calls its modules, for all B * K rows at once")
            if max_rows is not None:
                integer("SpanBoundaryHead: max_rows", max_rows)
            y = self._call_modules(x, *indices)
            if token_rows is not None:
                y = (y, _rows_of_tokens(x, token_rows))
        if not with_bias:
            return y
        return (*(y if isinstance(y, tuple) else (y,)), self.bias.clone())

    def _unknown_module(self, x: Tensor) -> tuple[str, str] | None:
        """The first of the five modules whose parameters do not say what it computes, and why."""
        every = global_hooks()
        for name, exact in _PARTS.items():
            reason = every or not_readable(getattr(self, name), exact, x)
            if reason is not None:
                return f"sbo.{name}", reason
        if self.norm1.eps != self.norm2.eps:
            return "sbo.norm2", f"has eps {self.norm2.eps}, norm1 has {self.norm1.eps}"
        autocast = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
        for name in ("norm1", "norm2"):  # LayerNorms kept in float32, as for training on quantised weights
            dtype = getattr(self, name).weight.dtype
            if dtype != self.dense1.weight.dtype and not autocast:
                return f"sbo.{name}", f"has a weight of {dtype} beside {self.dense1.weight.dtype}"
        return None

    def _call_modules(self, x: Tensor, masked: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """What `ops.boundary_mlp` computes, on [B, K] rows, by calling the modules."""
        _check_indices(x, masked, left, right)
        batch, length, _ = x.shape
        slots = getattr(self.position_embeddings, "num_embeddings", self.position_slots)
        slot = masked - left - 1
        live = left >= 0  # [B, K]
        fits = (left < masked) & (masked < right) & (right < length) & (slot < slots)
        if may_read_values(masked):
            _check_positions(masked, left, right, fits, length)
        row = torch.arange(batch, device=x.device)[:, None]  # [B, 1]
        sides = [x[row, side.clamp(0, length - 1)].where(live[..., None], 0) for side in (left, right)]
        position = self.position_embeddings(slot.where(live & fits, 0))
        h = torch.cat([*sides, position.to(x.dtype)], dim=-1)  # [B, K, 2H+P]
        h = self.norm1(F.gelu(self.dense1(h)))  # [B, K, E]
        y = self.norm2(F.gelu(self.dense2(h))).to(x.dtype)  # [B, K, D]
        # As the operator: NaN where indices fit nothing, which no check has seen on CUDA.
        return y.where(fits[..., None], torch.nan).where(live[..., None], 0)

    def extra_repr(self) -> str:
        return "no bias" if self.bias is None else f"vocab_size={self.bias.shape[0]}"


def _check_indices(x: Tensor, masked: Tensor, left: Tensor, right: Tensor) -> None:
    for name, index in {"masked_positions": masked, "left_boundary": left, "right_boundary": right}.items():
        if index.dim() != 2 or index.shape != masked.shape or index.shape[0] != x.shape[0]:
            raise ValueError(
                f"SpanBoundaryHead: {name} has shape {list(index.shape)}, expected [B, K] with B = {x.shape[0]}"
            )
        if index.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"SpanBoundaryHead: {name} has dtype {index.dtype}, expected int64 or int32")
        if index.device != x.device:
            raise ValueError(f"SpanBoundaryHead: {name} is on {index.device}, expected {x.device} as x")
    if x.shape[1] == 0 and masked.numel() > 0:
        raise ValueError(
            f"SpanBoundaryHead: x has shape {list(x.shape)}, expected tokens (L > 0) for masked positions"
        )


def _check_positions(masked: Tensor, left: Tensor, right: Tensor, fits: Tensor, length: int) -> None:
    bad = ((left < 0) != (right < 0)) | ((left >= 0) & ~fits)
    if bad.any():
        b, k = bad.nonzero()[0].tolist()
        raise IndexError(
            f"SpanBoundaryHead: masked_positions[{b}, {k}] is {int(masked[b, k])} with left_boundary "
            f"{int(left[b, k])} and right_boundary {int(right[b, k])}, expected left < masked < right < L = {length} "
            "in a slot of the position table, or -1 in both boundaries"
        )


def _rows_of_tokens(x: Tensor, token_rows: Tensor) -> Tensor:
    """[R, H], as `ops.boundary_mlp` hands out rows of x: zero for -1; NaN, unchecked on CUDA, for what is no token."""
    check_tensors("SpanBoundaryHead", {"x": x, "token_rows": token_rows})
    if token_rows.dim() != 1:
        raise ValueError(f"SpanBoundaryHead: token_rows has shape {list(token_rows.shape)}, expected [R]")
    if token_rows.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"SpanBoundaryHead: token_rows has dtype {token_rows.dtype}, expected int64 or int32")
    tokens = x.flatten(0, 1)  # [B*L, H]
    count = tokens.shape[0]
    bad = (token_rows < -1) | (token_rows >= count)
    if may_read_values(token_rows) and bad.any():
        row = int(bad.nonzero()[0])
        raise IndexError(
            f"SpanBoundaryHead: token_rows[{row}] is {int(token_rows[row])}, expected -1 or a token in [0, B*L) = "
            f"[0, {count})"
        )
    with_zeros = torch.cat([tokens, tokens.new_zeros(1, tokens.shape[1])])
    rows = with_zeros[token_rows.where((token_rows >= 0) & ~bad, count)]
    return rows.masked_fill(bad[:, None], torch.nan)
