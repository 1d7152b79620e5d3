"""The encoder's last layer, behind its attention, on the rows alone that the heads read.

The heads read the masked tokens and the two boundaries of their spans, about a fifth of a batch. What follows the last
attention (its output projection, the feed-forward network, dropout and LayerNorm) works on rows one by one, so the
others need none of it: three quarters of the layer's Linears, and most of what it keeps for backward.

Two hooks on the layer's own modules take the rows up, so that nothing of the layer's code is repeated here. The rows
are those of the call that the thread is in. A layer with modules that are not transformers' own, or that are watched
or wrapped, computes all rows: they may not work row by row.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spanbert_ext.masking.row_bounds import rounded_up
from spanbert_ext.models.families import FAMILIES
from spanbert_ext.models.fused_path import changed, global_hooks, not_row_wise
from spanbert_ext.models.last_layers import RowModules
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
    entries, max_rows, max_read_rows = length, None, None
    if labels.numel() and (may_read_values(labels) or (count_rows and _may_wait_for(labels))):
        first = live[:, 0].sum()  # without a label the first position is read too
        counts = torch.stack([live.sum(1).max(), live.sum(), first])
        entries, total, first = counts.tolist()
        entries = max(entries, 1)
        max_rows, max_read_rows = rounded_up(total), rounded_up(total + batch - first)
    entry = (live.cumsum(1) - 1).where(live, entries)  # [B, L]
    position = torch.arange(length, device=labels.device).expand(batch, length)
    positions = entry.new_full((batch, entries + 1), -1).scatter_(
        1, entry, position
    )  # the last column: no label
    return LabelledRows(positions[:, :entries], max_rows, max_read_rows)


def _may_wait_for(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or x.device.type == "meta":
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


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
    GPU, there are `max_read_rows` rows, or as many as could ever be read, and some of them are not.

    Returns:
        None where that is all of them, or where the tensors are not such: the loss then raises.

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


class _Call(NamedTuple):
    """The rows of a call, and the modules that take them up: those of one model, not of its copies."""

    rows: ReadRows
    first: nn.Module
    last: nn.Module
    grad_enabled: bool


class _Calls(threading.local):
    """The call that a thread is in. No module keeps it, so that threads may share a model."""

    current: _Call | None = None


_calls = _Calls()


def prepare_rows(model: Any) -> None:
    """Prepares a new model for `only_rows`: its last layer gets two hooks, which do nothing outside of it."""
    modules = FAMILIES[model.config.model_type].last_layer(model)
    if modules is not None:
        modules.first.module.register_forward_pre_hook(_gather)
        modules.last.module.register_forward_hook(_scatter)


@contextmanager
def only_rows(
    model: Any,
    text: Tensor | None,
    positions: Sequence[Tensor] | None,
    max_read_rows: int | None = None,
) -> Iterator[None]:
    """Within it, the encoder's output is zero, and not computed, in rows that are not at `positions`.

    Args:
        text: what the encoder will read, `[B, L, ...]`.
        positions: int64 `[B, K]` each, negative where there is none; None: all rows are computed.
        max_read_rows: as in `find_read_rows`.
    """
    call = modules = None
    if positions is not None and text is not None and text.dim() >= 2:
        modules = _known_last_layer(model)
    if modules is not None:
        rows = find_read_rows(positions, text.shape[0], text.shape[1], max_read_rows)
        if rows is not None:
            call = _Call(rows, modules.first.module, modules.last.module, torch.is_grad_enabled())
    outer, _calls.current = _calls.current, call
    try:
        yield
    finally:
        _calls.current = outer


def _known_last_layer(model: Any) -> RowModules | None:
    """The last layer where it may run on some rows: every module behind its attention is known (`fused_path`)."""
    modules = FAMILIES[model.config.model_type].last_layer(model)
    if modules is None or global_hooks() is not None:
        return None
    first, last = modules.first.module, modules.last.module
    # Without our hooks: put there after the model was made.
    if _gather not in first._forward_pre_hooks.values() or _scatter not in last._forward_hooks.values():
        return None
    if any(changed(module) is not None for _, module, _ in modules.around):
        return None
    for path, module, exact in (modules.first, *modules.between, modules.last):
        if type(module) is not exact or not_row_wise(path, module, modules.row_wise, _OWN_HOOKS) is not None:
            return None
    # A layer that is computed again in backward would not find its rows. One that is compiled by itself would be
    # compiled for every number of rows.
    layer = modules.layer
    if (layer.training and layer.gradient_checkpointing) or getattr(
        layer, "_compiled_call_impl", None
    ) is not None:
        return None
    # In a second place of the encoder these modules would find the rows of the first one.
    shared = {id(layer): 0, id(first): 0, id(last): 0}
    _count(modules.around[0].module, shared)
    return modules if max(shared.values()) == 1 else None


def _count(module: nn.Module, places: dict[int, int]) -> None:
    """Adds up how often the modules with the ids of `places` stand below `module`."""
    for child in module._modules.values():
        if child is not None:
            if id(child) in places:
                places[id(child)] += 1
            _count(child, places)


def _rows_at(module: nn.Module, place: str) -> ReadRows | None:
    """None as well where gradients are off that were on: a reentrant checkpoint, which computes this again later."""
    call = _calls.current
    if call is None or getattr(call, place) is not module or call.grad_enabled != torch.is_grad_enabled():
        return None
    return call.rows


def _gather(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """[B, L, H] each -> [1, N, H] each.

    Raises:
        ValueError: other B or L than the text's, as behind embeddings that put tokens in front.
    """
    rows = _rows_at(module, "first")
    if rows is None:
        return None
    for x in inputs:
        if x.shape[:2] != (rows.batch, rows.length):
            raise ValueError(
                f"the encoder's hidden states have shape {list(x.shape)}, expected "
                f"[{rows.batch}, {rows.length}, H] as the input"
            )
    return tuple(x.flatten(0, 1).index_select(0, rows.index.to(x.device))[None] for x in inputs)


def _scatter(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    """[1, N, H] -> [B, L, H]."""
    rows = _rows_at(module, "last")
    if rows is None:
        return None
    shape = (rows.batch, rows.length, output.shape[-1])
    if rows.fill is None:
        full = output.new_zeros(shape)
    else:
        full = rows.fill.to(output).expand(shape).clone(memory_format=torch.contiguous_format)
    full.view(-1, output.shape[-1]).index_copy_(0, rows.index.to(output.device), output[0])
    return full


_OWN_HOOKS = (_gather, _scatter)
