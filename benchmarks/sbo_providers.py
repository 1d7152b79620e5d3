"""The contestants of bench_sbo.py. To add one: write a builder and name it in BUILDERS.

A builder takes a Setting and returns a Provider, or raises Unavailable with the reason. A provider's `loss`
gets the heads, the hidden states and the batch and returns `mean(mlm) + mean(sbo)`; the benchmark calls
backward on it. It runs under the benchmark's autocast unless the provider asks for another precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from common import Unavailable, available_bytes
from sbo_problem import IGNORED, Batch, Heads, Shape
from torch import Tensor

Precision = Literal["float32", "autocast", "bfloat16"]
"""float32 everywhere; float32 parameters and hidden states under bfloat16 autocast; bfloat16 everywhere."""

Loss = Callable[[Heads, Tensor, Batch], Tensor]


@dataclass(frozen=True)
class Provider:
    name: str
    precision: Precision
    loss: Loss
    notes: dict[str, Any] = field(default_factory=dict)  # what the report should say, a chosen chunk for one


@dataclass(frozen=True)
class Setting:
    """Where and on what providers compete. `full_ms` times a provider's step, for builders that tune."""

    shape: Shape
    device: torch.device
    dtype: torch.dtype
    rows: tuple[int, int]  # MLM and SBO rows of a typical batch
    full_ms: Callable[[Provider], float]
    tuned: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # by provider: what an earlier tuning chose

    @property
    def precision(self) -> Precision:
        return "float32" if self.dtype == torch.float32 else "autocast"

    def require_memory(self, logits: int) -> None:
        """Unavailable when four float32 copies of the logits (eager, forward and backward) cannot fit."""
        needed, free = 16 * logits, available_bytes(self.device)
        if needed > free:
            raise Unavailable(f"needs about {needed / 1e9:.0f} GB for logits, {free / 1e9:.0f} GB are free")


def _boundary_rows(heads: Heads, flat: Tensor, batch: Batch) -> Tensor:
    """SBO representations of the live rows, [N_sbo, D]."""
    left, right = flat[batch.sbo_left_rows], flat[batch.sbo_right_rows]  # [N_sbo, H]
    positions = heads.sbo.position_embeddings(batch.sbo_slots)  # [N_sbo, P]
    return heads.sbo(torch.cat([left, right, positions], dim=-1))


def masked_loss(heads: Heads, hidden: Tensor, batch: Batch) -> Tensor:
    """Masked rows only, as a careful user writes it."""
    flat = hidden.flatten(0, 1)  # [B*L, H]
    mlm = F.linear(heads.transform(flat[batch.mlm_rows]), heads.decoder_weight, heads.mlm_bias)  # [N_mlm, V]
    sbo = F.linear(_boundary_rows(heads, flat, batch), heads.decoder_weight, heads.sbo.bias)  # [N_sbo, V]
    return F.cross_entropy(mlm, batch.mlm_targets) + F.cross_entropy(sbo, batch.sbo_targets)


def dense_loss(heads: Heads, hidden: Tensor, batch: Batch) -> Tensor:
    """The published form: MLM logits at every position, SBO over spans x position slots, padding included."""
    mlm = F.linear(heads.transform(hidden), heads.decoder_weight, heads.mlm_bias)  # [B, L, V]
    rows, spans, slots = batch.pair_targets.shape
    left, right = hidden.flatten(0, 1)[batch.pairs].unbind(2)  # [B, spans, H] each
    positions = heads.sbo.position_embeddings.weight  # [S, P]
    boundaries = torch.cat(
        [
            left.unsqueeze(2).expand(-1, -1, slots, -1),
            right.unsqueeze(2).expand(-1, -1, slots, -1),
            positions.expand(rows, spans, -1, -1),
        ],
        dim=-1,
    )  # [B, spans, S, 2H+P]
    sbo = F.linear(heads.sbo(boundaries), heads.decoder_weight, heads.sbo.bias)  # [B, spans, S, V]
    mlm_loss = F.cross_entropy(mlm.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED)
    sbo_loss = F.cross_entropy(sbo.flatten(0, 2), batch.pair_targets.flatten(), ignore_index=IGNORED)
    return mlm_loss + sbo_loss


def fused(setting: Setting) -> Provider:
    """spanbert_ext's own loss."""
    try:
        from spanbert_ext.ops import boundary_mlp, span_pretraining_loss
    except ImportError as error:
        raise Unavailable(f"spanbert_ext is not complete here: {error}") from error

    def loss(heads: Heads, hidden: Tensor, batch: Batch) -> Tensor:
        sbo = heads.sbo

        def boundary_rows(*indexed: Tensor, impl: Literal["fused", "reference"]) -> Tensor:  # -> [B, K, D]
            return boundary_mlp(
                *indexed,
                sbo.position_embeddings.weight,
                sbo.dense1.weight,
                sbo.dense1.bias,
                sbo.norm1.weight,
                sbo.norm1.bias,
                sbo.dense2.weight,
                sbo.dense2.bias,
                sbo.norm2.weight,
                sbo.norm2.bias,
                eps=sbo.norm1.eps,
                impl=impl,
            )

        output = span_pretraining_loss(
            hidden,
            batch.labels,
            batch.masked_positions,
            batch.left_boundary,
            batch.right_boundary,
            transform=heads.transform,
            weight=heads.decoder_weight,
            bias=heads.mlm_bias,
            boundary_rows=boundary_rows,
            sbo_bias=sbo.bias,
        )
        return output.loss

    return Provider("fused", setting.precision, loss)


def eager_masked(setting: Setting) -> Provider:
    """Eager PyTorch on masked rows only."""
    setting.require_memory(sum(setting.rows) * setting.shape.vocab)
    return Provider("eager_masked", setting.precision, masked_loss)


def eager_masked_float32(setting: Setting) -> Provider:
    """The same without autocast, beside a bfloat16 run."""
    if setting.precision == "float32":
        raise Unavailable("eager_masked is in float32 already")
    return Provider("eager_masked_float32", "float32", eager_masked(setting).loss)


def eager_masked_bfloat16(setting: Setting) -> Provider:
    """The same with parameters and hidden states in bfloat16."""
    if setting.precision == "float32":
        raise Unavailable("only in a bfloat16 run")
    return Provider("eager_masked_bfloat16", "bfloat16", eager_masked(setting).loss)


def eager_dense(setting: Setting) -> Provider:
    """The published dense form."""
    shape = setting.shape
    spans = (
        0.05 * shape.length
    )  # a row has about 16 spans per 512 tokens; the longest row of a batch some more
    positions = shape.rows * (shape.length + spans * shape.position_slots)
    setting.require_memory(int(positions * shape.vocab))
    return Provider("eager_dense", setting.precision, dense_loss)


def compiled(setting: Setting) -> Provider:
    """torch.compile of eager_masked; the number of SBO rows differs in every batch and is marked dynamic."""
    provider = eager_masked(setting)
    function = torch.compile(provider.loss)

    def loss(heads: Heads, hidden: Tensor, batch: Batch) -> Tensor:
        for rows in (batch.sbo_left_rows, batch.sbo_right_rows, batch.sbo_slots, batch.sbo_targets):
            torch._dynamo.maybe_mark_dynamic(rows, 0)
        return function(heads, hidden, batch)

    provider = Provider("compile", setting.precision, loss)
    try:
        setting.full_ms(provider)
    except torch._dynamo.exc.TorchDynamoException as error:
        raise Unavailable(f"torch.compile fails here: {str(error).splitlines()[0]}") from error
    return provider


def _torch_linear_ce(name: str, setting: Setting, **options: Any) -> Provider:
    if not hasattr(F, "linear_cross_entropy") or not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        raise Unavailable(f"torch {torch.__version__} has no chunked F.linear_cross_entropy (2.13 has)")
    chosen = torch.nn.LinearCrossEntropyOptions(**options)

    def loss(heads: Heads, hidden: Tensor, batch: Batch) -> Tensor:
        flat = hidden.flatten(0, 1)  # [B*L, H]
        mlm, sbo = heads.transform(flat[batch.mlm_rows]), _boundary_rows(heads, flat, batch)
        # autocast does not know this function: cast as it would, the weight once for both heads
        weight, mlm_bias, sbo_bias, mlm, sbo = (
            tensor.to(setting.dtype)
            for tensor in (heads.decoder_weight, heads.mlm_bias, heads.sbo.bias, mlm, sbo)
        )
        mlm_loss = F.linear_cross_entropy(
            mlm, weight, batch.mlm_targets, linear_bias=mlm_bias, options=chosen
        )
        sbo_loss = F.linear_cross_entropy(
            sbo, weight, batch.sbo_targets, linear_bias=sbo_bias, options=chosen
        )
        return mlm_loss.float() + sbo_loss.float()

    return Provider(name, setting.precision, loss, notes=dict(options))


def torch_linear_ce_default(setting: Setting) -> Provider:
    """torch.nn.functional.linear_cross_entropy with the chunk that it chooses itself."""
    provider = _torch_linear_ce("torch_linear_ce_default", setting)
    resolved = torch.nn.LinearCrossEntropyOptions()._adjust(
        setting.rows[0], setting.shape.hidden, setting.shape.vocab, setting.dtype, setting.device
    )
    provider.notes.update(batch_chunk_size=resolved.batch_chunk_size, acc_policy=resolved.acc_policy)
    return provider


def torch_linear_ce_best(setting: Setting) -> Provider:
    """The same with the fastest chunk of a sweep, then the fastest accumulation policy at that chunk."""
    name = "torch_linear_ce_best"
    if name in setting.tuned:
        return _torch_linear_ce(name, setting, **setting.tuned[name])
    rows = max(setting.rows)
    doubling = [128 << step for step in range(12)]
    chunks = [chunk for chunk in doubling if chunk < rows] + [rows]
    candidates = (_torch_linear_ce(name, setting, batch_chunk_size=chunk) for chunk in chunks)
    chunk = min(candidates, key=setting.full_ms).notes["batch_chunk_size"]
    policies = ("accurate", "balanced", "compact")
    return min(
        (_torch_linear_ce(name, setting, batch_chunk_size=chunk, acc_policy=policy) for policy in policies),
        key=setting.full_ms,
    )


BUILDERS: dict[str, Callable[[Setting], Provider]] = {
    "fused": fused,
    "eager_masked": eager_masked,
    "eager_masked_float32": eager_masked_float32,
    "eager_masked_bfloat16": eager_masked_bfloat16,
    "eager_dense": eager_dense,
    "compile": compiled,
    "torch_linear_ce_default": torch_linear_ce_default,
    "torch_linear_ce_best": torch_linear_ce_best,
}
