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

from spanbert_ext.masking.row_bounds import rounded_up
from spanbert_ext.ops._common import may_read_values


class LabelledRows(NamedTuple):
    """The positions with a label, int64 `[B, K]`, ascending and padded with -1.

    The bounds are those of `forward`, None where nothing was counted: K is then L.
    """

    positions: Tensor
    max_rows: int | None
    max_read_rows: int | None


def labelled_positions(labels: Tensor, count_rows: bool) -> LabelledRows:
    """Every position with a label of `[B, L]`; K is the most that a row has.

    On CUDA that number is worth one synchronisation, where the caller allows it (`count_rows`): without it every
    position of the batch is decoded. Under torch.compile and in a CUDA graph nothing is counted.

    Raises:
        ValueError: labels are not [B, L].
    """
    if labels.dim() != 2:
        raise ValueError(f"labels has shape {list(labels.shape)}, expected [B, L]")
    batch, length = labels.shape
    live = labels >= 0  # [B, L]
    slots, max_rows, max_read_rows = length, None, None
    if labels.numel() and (may_read_values(labels) or (count_rows and _may_wait_for(labels))):
        first = live[:, 0].sum()  # without a label the first position is read too
        counts = torch.stack([live.sum(1).max(), live.sum(), first])
        slots, total, first = counts.tolist()
        slots = max(slots, 1)
        max_rows, max_read_rows = rounded_up(total), rounded_up(total + batch - first)
    slot = (live.cumsum(1) - 1).where(live, slots)  # [B, L]
    position = torch.arange(length, device=labels.device).expand(batch, length)
    positions = slot.new_full((batch, slots + 1), -1).scatter_(1, slot, position)  # the last column: no label
    return LabelledRows(positions[:, :slots], max_rows, max_read_rows)


def _may_wait_for(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or x.device.type == "meta":
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


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
    """The rows that are read of hidden states `[B, L, H]`: int64 `[N]`, each once, counted through the batch.

    `fill` stands in all other rows: 0, which None means too, or NaN where N is too small for the rows that are read.
    """

    index: Tensor
    batch: int
    length: int
    fill: Tensor | None = None  # [] float32


def mark_read(positions: Sequence[Tensor], batch: int, length: int) -> Tensor:
    """Which positions the heads read: bool `[batch * length]`.

    Those in the index tensors `[B, K]` (integers; outside 0 ... L - 1 they count as none) and the first of every row,
    which stands in for none.
    """
    joined = torch.cat(list(positions), dim=1)  # [B, n * K]
    # one column in front for no position, one behind for a position beyond the row
    columns = length + 2
    begins = torch.arange(1, 1 + batch * columns, columns, device=joined.device)  # [B]
    read = torch.zeros(batch * columns, dtype=torch.bool, device=joined.device)
    read.index_fill_(0, (joined.clamp(-1, length) + begins[:, None]).flatten(), True)
    read = read.view(batch, columns)[:, 1 : length + 1]
    read[:, :1].fill_(True)
    return read.flatten()


def find_read_rows(
    positions: Sequence[Tensor], batch: int, length: int, max_read_rows: int | None = None
) -> ReadRows | None:
    """The rows at the positions of index tensors `[B, K]`, where those outside 0 ... L - 1 count as none.

    The first position of every row is read too: it stands in for no position. Where values may not be read, as on a
    GPU, there are as many rows as `max_read_rows` says, or as could ever be read, and some that are not.

    Returns:
        None where that is all of them, or where the tensors are not such: the loss says what is wrong.

    Raises:
        ValueError: more rows are read than `max_read_rows`. Where values may not be read, `fill` is NaN instead.
    """
    device = positions[0].device
    for x in positions:
        if x.dim() != 2 or x.shape[0] != batch or x.is_floating_point() or x.device != device:
            return None
    rows = batch * length
    if may_read_values(positions[0]):
        index = mark_read(positions, batch, length).nonzero().flatten()
        if max_read_rows is not None and len(index) > max_read_rows:
            raise ValueError(
                f"max_read_rows is {max_read_rows}, but the heads read {len(index)} rows: the masked positions, "
                "both boundaries of their spans and the first position of each row"
            )
        return ReadRows(index, batch, length)
    most = batch * min(length, 1 + sum(x.shape[1] for x in positions))
    bounded = max_read_rows is not None and max_read_rows < most
    most = max_read_rows if bounded else most
    if most >= rows:
        return None
    # A stable partition: the rows that are read, then the others.
    read = mark_read(positions, batch, length)  # [B * L]
    every = torch.arange(rows, device=device)
    upto = read.cumsum(0)  # rows read, this one included
    place = torch.where(read, upto - 1, upto[-1] + every - upto)
    index = torch.empty_like(every).scatter_(0, place, every)[:most]
    if not bounded:
        return ReadRows(index, batch, length)
    fill = torch.zeros((), device=device).masked_fill(upto[-1] > most, torch.nan)
    return ReadRows(index, batch, length, fill)


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
def only_rows(
    model: Any,
    text: Tensor | None,
    positions: Sequence[Tensor] | None,
    max_read_rows: int | None = None,
) -> Iterator[None]:
    """Within it, the encoder's output is zero, and not computed, in rows that are not at `positions`.

    Not for two threads that use one model at the same time.

    Args:
        text: what the encoder will read, `[B, L, ...]`.
        positions: int64 `[B, K]` each, negative where there is none; None: all rows are computed.
        max_read_rows: as in `find_read_rows`.
    """
    rows = None
    if positions is not None and text is not None and text.dim() >= 2:
        rows = find_read_rows(positions, text.shape[0], text.shape[1], max_read_rows)
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
    shape = (rows.batch, rows.length, output.shape[-1])
    if rows.fill is None:
        full = output.new_zeros(shape)
    else:
        full = rows.fill.to(output).expand(shape).clone(memory_format=torch.contiguous_format)
    full.view(-1, output.shape[-1]).index_copy_(0, rows.index.to(output.device), output[0])
    return full
