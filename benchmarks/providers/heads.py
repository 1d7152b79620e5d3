# SPDX-License-Identifier: Apache-2.0
"""The contestants of bench_sbo.py. To add one: write a builder and name it in BUILDERS.

A builder takes a Setting and returns a Provider, or raises Unavailable with the reason. A provider's `loss`
gets the heads, the hidden states and the batch and returns `mean(mlm) + mean(sbo)`; the benchmark calls
backward on it. It runs under the benchmark's autocast unless the provider asks for another precision.
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from providers.head_peers import PEERS
from support.errors import Unavailable
from support.head_problem import Batch, Heads
from support.head_setting import Builder, Provider, Setting, boundary_rows
from support.text import IGNORED


def sbo_loss(heads: Heads, flat: Tensor, batch: Batch) -> Tensor:
    """The SBO's loss on its live rows; `flat` are the hidden states as [B*L, H]."""
    logits = F.linear(boundary_rows(heads, flat, batch), heads.decoder_weight, heads.sbo.bias)  # [N_sbo, V]
    return F.cross_entropy(logits, batch.sbo_targets)


def masked_loss(heads: Heads, hidden: Tensor, batch: Batch) -> Tensor:
    """Masked rows only, as a careful user writes it."""
    flat = hidden.flatten(0, 1)  # [B*L, H]
    mlm = F.linear(heads.transform(flat[batch.mlm_rows]), heads.decoder_weight, heads.mlm_bias)  # [N_mlm, V]
    return F.cross_entropy(mlm, batch.mlm_targets) + sbo_loss(heads, flat, batch)


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

        def fused_rows(
            *indexed: Tensor, impl: Literal["fused", "reference"], max_rows: int | None = None
        ) -> Tensor:  # [B, K, D]
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
                max_rows=max_rows,
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
            boundary_rows=fused_rows,
            sbo_bias=sbo.bias,
            max_rows=batch.max_rows,
        )
        return output.loss

    return Provider("fused", setting.precision, loss)


def eager_masked(setting: Setting) -> Provider:
    """Eager PyTorch on masked rows only."""
    setting.require_memory(sum(setting.rows) * setting.shape.vocab)
    setting.require_speed()
    return Provider("eager_masked", setting.precision, masked_loss)


def eager_masked_float32(setting: Setting) -> Provider:
    """The same without autocast, beside a bfloat16 run."""
    if setting.precision == "float32":
        raise Unavailable("eager_masked is in float32 already")
    setting.require_memory(sum(setting.rows) * setting.shape.vocab)
    return Provider("eager_masked_float32", "float32", masked_loss)


def eager_masked_bfloat16(setting: Setting) -> Provider:
    """The same with parameters and hidden states in bfloat16."""
    if setting.precision == "float32":
        raise Unavailable("only in a bfloat16 run")
    return Provider("eager_masked_bfloat16", "bfloat16", eager_masked(setting).loss)


@functools.lru_cache(maxsize=4)
def _stock_head(heads: Heads) -> nn.Module:
    """transformers' own MLM head around the very parameters of `heads`."""
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertOnlyMLMHead

    vocab, width = heads.decoder_weight.shape
    dense, _, norm = heads.transform
    config = BertConfig(vocab_size=vocab, hidden_size=width, num_attention_heads=1, layer_norm_eps=norm.eps)
    with torch.device("meta"):
        head = BertOnlyMLMHead(config)
    head.predictions.transform.dense, head.predictions.transform.LayerNorm = dense, norm
    head.predictions.decoder.weight = heads.decoder_weight
    head.predictions.decoder.bias = head.predictions.bias = heads.mlm_bias
    return head


def hf_all_positions(setting: Setting) -> Provider:
    """The head of transformers' BertForMaskedLM, which decodes every position, and SBO on masked rows."""
    shape = setting.shape
    setting.require_memory((shape.rows * shape.length + setting.rows[1]) * shape.vocab)
    setting.require_speed()
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise Unavailable(f"needs transformers: {error}") from error

    def loss(heads: Heads, hidden: Tensor, batch: Batch) -> Tensor:
        logits = _stock_head(heads)(hidden)  # [B, L, V]
        mlm = F.cross_entropy(logits.view(-1, logits.shape[-1]), batch.labels.view(-1), ignore_index=IGNORED)
        return mlm + sbo_loss(heads, hidden.flatten(0, 1), batch)

    return Provider("hf_all_positions", setting.precision, loss)


def eager_dense(setting: Setting) -> Provider:
    """The published dense form."""
    shape = setting.shape
    spans = (
        0.05 * shape.length
    )  # a row has about 16 spans per 512 tokens; the longest row of a batch some more
    positions = shape.rows * (shape.length + spans * shape.position_slots)
    setting.require_memory(int(positions * shape.vocab))
    setting.require_speed()
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


BUILDERS: dict[str, Builder] = {
    "fused": fused,
    "eager_masked": eager_masked,
    "eager_masked_float32": eager_masked_float32,
    "eager_masked_bfloat16": eager_masked_bfloat16,
    "hf_all_positions": hf_all_positions,
    "eager_dense": eager_dense,
    "compile": compiled,
    **PEERS,
}
