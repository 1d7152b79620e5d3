"""The encoder's last layer, behind its attention, on the rows alone that the heads read.

The heads read the masked tokens and the two boundaries of their spans, about a fifth of a batch. What follows the last
attention (its output projection, the feed-forward network, dropout and LayerNorm) works on rows one by one, so the
others need none of it: three quarters of the layer's products, and most of what it keeps for backward.

The rows are handed to the layer's own modules through an attribute and taken up by hooks, so that nothing of the
layer's code is repeated here, and a copied, pickled or replicated model carries its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

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
    if len(model.bert.encoder.layer) == 0:
        return None
    layer = model.bert.encoder.layer[-1]
    if layer.add_cross_attention or layer.chunk_size_feed_forward > 0:
        return None  # what lies between wants whole sequences
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

    Where values may not be read, as on a GPU, there are as many rows as could ever be read, and some that are not.

    Returns:
        None where that is all of them, or where the tensors are not such: the loss says what is wrong.
    """
    if any(x.dim() != 2 or x.shape[0] != batch or x.is_floating_point() for x in positions):
        return None
    most = min(length, sum(x.shape[1] for x in positions))
    may_read = may_read_values(positions[0])
    if most == length and not may_read:
        return None
    device, rows = positions[0].device, batch * length
    begins = torch.arange(batch, device=device)[:, None] * length  # [B, 1]
    read = torch.zeros(rows + 1, dtype=torch.bool, device=device)  # the last one: no position
    for x in positions:
        inside = (x >= 0) & (x < length)
        read.index_fill_(0, (begins + x).where(inside, rows).flatten(), True)
    if may_read:
        return ReadRows(read[:rows].nonzero().flatten(), batch, length)
    return ReadRows(
        read[:rows].to(torch.uint8).argsort(descending=True, stable=True)[: batch * most], batch, length
    )


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


@contextmanager
def only_rows(model: Any, text: Tensor | None, positions: Sequence[Tensor] | None) -> Iterator[None]:
    """Within it, the encoder's output is zero, and not computed, in rows that are not at `positions`.

    Args:
        text: what the encoder will read, `[B, L, ...]`.
        positions: int64 `[B, K]` each, negative where there is none; None: all rows are computed.
    """
    modules = row_modules(model)
    # a layer that is computed again in backward would not find the rows any more
    if modules is None or (model.training and getattr(modules.layer, "gradient_checkpointing", False)):
        positions = None
    rows = None if text is None or positions is None else find_read_rows(positions, *text.shape[:2])
    if rows is None:
        yield
        return
    modules.first.read_rows = modules.last.read_rows = rows
    try:
        yield
    finally:
        modules.first.read_rows = modules.last.read_rows = None


def _gather(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """[B, L, H] each -> [1, N, H] each."""
    rows = getattr(module, "read_rows", None)
    if rows is None:
        return None
    index = rows.index.to(inputs[0].device)
    return tuple(x.flatten(0, 1).index_select(0, index)[None] for x in inputs)


def _scatter(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    """[1, N, H] -> [B, L, H]."""
    rows = getattr(module, "read_rows", None)
    if rows is None:
        return None
    width = output.shape[-1]
    full = output.new_zeros(rows.batch * rows.length, width)
    return full.index_copy(0, rows.index.to(output.device), output[0]).view(rows.batch, rows.length, width)
