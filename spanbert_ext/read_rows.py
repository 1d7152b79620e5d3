"""The encoder's last layer, behind its attention, on the rows alone that the heads read.

The heads read the masked tokens and the two boundaries of their spans, about a fifth of a batch. What follows the last
attention (its output projection, the feed-forward network, dropout and LayerNorm) works on rows one by one, so the
others need none of it: three quarters of the layer's Linears, and most of what it keeps for backward.

The rows are handed to the layer's own modules through an attribute and taken up by hooks, so that nothing of the
layer's code is repeated here, and a copied, pickled or replicated model carries its own. Modules that somebody put in
the place of transformers' own, or around them, compute all rows: nobody knows what they do with a few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import (
    BertAttention,
    BertEncoder,
    BertLayer,
    BertModel,
    BertOutput,
    BertSelfOutput,
)

from spanbert_ext.ops._common import may_read_values


def labelled_positions(labels: Tensor) -> Tensor:
    """Every position with a label, ascending and padded with -1: [B, L] -> [B, K]."""
    length = labels.shape[1]
    live = labels >= 0
    position = torch.arange(length, device=labels.device).where(live, length).sort(dim=1).values
    if may_read_values(labels) and live.any():
        position = position[:, : int(live.sum(1).max())]  # elsewhere K = L: no synchronisation
    return position.where(position < length, -1)


class RowModules(NamedTuple):
    """Of an encoder's last layer: `first` is the first module, `last` the last one that works on rows alone."""

    layer: nn.Module
    first: nn.Module
    last: nn.Module


def _bert(model: Any) -> RowModules | None:
    if not (isinstance(model.bert, BertModel) and isinstance(model.bert.encoder, BertEncoder)):
        return None
    *others, layer = model.bert.encoder.layer or [None]
    if not isinstance(layer, BertLayer) or any(other is layer for other in others):
        return None
    if layer.add_cross_attention or layer.chunk_size_feed_forward > 0:
        return None  # what lies between wants whole sequences
    if not (
        isinstance(layer.attention, BertAttention) and isinstance(layer.attention.output, BertSelfOutput)
    ):
        return None
    if not isinstance(layer.output, BertOutput):
        return None
    return RowModules(layer, layer.attention.output, layer.output)


# Per model type: where those modules are. A type that is not here computes all rows.
ROW_MODULES: dict[str, Callable[[Any], RowModules | None]] = {"bert": _bert}


class ReadRows(NamedTuple):
    """The rows that are read of hidden states `[B, L, H]`: int64 `[N]`, each once, counted through the batch."""

    index: Tensor
    batch: int
    length: int


def find_read_rows(positions: Sequence[Tensor], batch: int, length: int) -> ReadRows | None:
    """The rows at the positions of index tensors `[B, K]`, where those outside 0 ... L - 1 count as none.

    The first position of every row is read too: it stands in for no position. Where values may not be read, as on a
    GPU, there are as many rows as could ever be read, and some that are not.

    Returns:
        None where that is all of them, or where the tensors are not such: the loss says what is wrong.
    """
    device = positions[0].device
    for x in positions:
        if x.dim() != 2 or x.shape[0] != batch or x.is_floating_point() or x.device != device:
            return None
    most = min(length, 1 + sum(x.shape[1] for x in positions))
    may_read = may_read_values(positions[0])
    if most == length and not may_read:
        return None
    rows = batch * length
    begins = torch.arange(batch, device=device)[:, None] * length  # [B, 1]
    read = torch.zeros(rows + 1, dtype=torch.bool, device=device)  # the last one: no position
    for x in (torch.zeros_like(begins), *positions):
        inside = (x >= 0) & (x < length)
        read.index_fill_(0, (begins + x).where(inside, rows).flatten(), True)
    if may_read:
        return ReadRows(read[:rows].nonzero().flatten(), batch, length)
    index = read[:rows].to(torch.uint8).argsort(descending=True, stable=True)
    return ReadRows(index[: batch * most], batch, length)


def row_modules(model: Any) -> RowModules | None:
    """Of the layer that is the last one now; None for a model that computes all rows."""
    find = ROW_MODULES.get(model.config.model_type)
    return None if find is None else find(model)


def prepare_rows(model: Any) -> None:
    """Prepares a new model for `only_rows`."""
    modules = row_modules(model)
    if modules is not None:
        modules.first.register_forward_pre_hook(_gather)
        modules.last.register_forward_hook(_scatter)
        modules.first.read_rows = modules.last.read_rows = None


@contextmanager
def only_rows(model: Any, text: Tensor | None, positions: Sequence[Tensor] | None) -> Iterator[None]:
    """Within it, the encoder's output is zero, and not computed, in rows that are not at `positions`.

    Not for two threads that use one model at the same time.

    Args:
        text: what the encoder will read, `[B, L, ...]`.
        positions: int64 `[B, K]` each, negative where there is none; None: all rows are computed.
    """
    rows = None
    if positions is not None and text is not None and text.dim() >= 2:
        rows = find_read_rows(positions, text.shape[0], text.shape[1])
    modules = None if rows is None else row_modules(model)
    if modules is None or not _takes_rows(modules):
        yield
        return
    modules.first.read_rows = modules.last.read_rows = (rows, torch.is_grad_enabled())
    try:
        yield
    finally:
        modules.first.read_rows = modules.last.read_rows = None


def _takes_rows(modules: RowModules) -> bool:
    if not (hasattr(modules.first, "read_rows") and hasattr(modules.last, "read_rows")):
        return False  # put there after the model was made: no hooks
    # A layer that is computed again in backward would not find its rows. One that is compiled by itself would be
    # compiled for every number of rows.
    checkpointed = modules.layer.training and modules.layer.gradient_checkpointing
    return not checkpointed and getattr(modules.layer, "_compiled_call_impl", None) is None


def _rows_of(module: nn.Module) -> ReadRows | None:
    """None as well where gradients are off that were on: a reentrant checkpoint, which will compute this again."""
    if module.read_rows is None:
        return None
    rows, grad_enabled = module.read_rows
    return rows if grad_enabled == torch.is_grad_enabled() else None


def _gather(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """[B, L, H] each -> [1, N, H] each."""
    rows = _rows_of(module)
    if rows is None:
        return None
    return tuple(x.flatten(0, 1).index_select(0, rows.index.to(x.device))[None] for x in inputs)


def _scatter(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    """[1, N, H] -> [B, L, H]."""
    rows = _rows_of(module)
    if rows is None:
        return None
    full = output.new_zeros(rows.batch, rows.length, output.shape[-1])
    full.view(-1, output.shape[-1]).index_copy_(0, rows.index.to(output.device), output[0])
    return full
