# SPDX-License-Identifier: Apache-2.0
"""The encoder's last layer, behind its attention, on the rows alone that the heads read.

The heads read the masked tokens and the two boundaries of their spans, about a fifth of a batch. What follows the last
attention (its output projection, the feed-forward network, dropout and LayerNorm) works on rows one by one, so the
others need none of it: three quarters of the layer's Linears, and most of what it keeps for backward.

Hooks on the layer's own modules take the rows up, so that nothing of the layer's code is repeated here. Two do where
every residual goes into a module: `_gather` in front of the first module behind the attention, `_scatter` behind the
last one. Where the layer adds a residual itself, its own input is cut down to the rows before that (`_narrow`), and the
first module that it calls gets the whole input all the same (`_widen`). Each hook acts only after the one before it.

The rows are those of the call that the thread is in. A layer with modules that are not transformers' own, or that are
watched or wrapped, computes all rows: they may not work row by row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spanbert_ext.masking.row_bounds import rounded_up
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
    if labels.numel() and (may_read_values(labels) or (count_rows and may_wait_for(labels))):
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


def may_wait_for(x: Tensor) -> bool:
    """Whether values may be read at the price of one synchronisation."""
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


class _Call:
    """The rows of a call, how far it is, and the modules that take them up: those of one model, not of its copies."""

    def __init__(self, rows: ReadRows, modules: RowModules) -> None:
        self.rows = rows
        self.modules = modules
        self.grad_enabled = torch.is_grad_enabled()
        self.expected = _NARROW if modules.narrowed is not None else _GATHER  # the hook that is to act next
        self.calls_left = modules.calls
        self.whole: Tensor | None = None  # the narrowed module's input, until `whole` has it
        self.length = rows.length  # the encoder's, which may have lengthened its input


# The hooks, by the names of their modules in RowModules.
_NARROW, _WIDEN, _GATHER, _SCATTER = "narrowed", "whole", "first", "last"


class _Calls(threading.local):
    """The call that a thread is in. No module keeps it, so that threads may share a model."""

    current: _Call | None = None


_calls = _Calls()


def prepare_rows(model: Any) -> None:
    """Prepares a new model for `only_rows`: modules of its last layer get hooks, which do nothing outside of it."""
    modules = None if model.layer_shape is None else model.layer_shape.find(model)
    if modules is not None:
        for module, hook in _hooked(modules):
            if hook is _scatter:
                module.register_forward_hook(hook)
            else:
                module.register_forward_pre_hook(hook)


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
            call = _Call(rows, modules)
    outer, _calls.current = _calls.current, call
    try:
        yield
    finally:
        _calls.current = outer


def _hooked(modules: RowModules) -> list[tuple[nn.Module, Callable]]:
    """The hooks, in the order in which they act."""
    hooked = [(modules.first, _gather), (modules.last, _scatter)]
    if modules.narrowed is not None:
        hooked = [(modules.narrowed, _narrow), (modules.whole, _widen), *hooked]
    return hooked


def _known_last_layer(model: Any) -> RowModules | None:
    """The last layer where it may run on some rows: every module behind its attention is known (`fused_path`)."""
    modules = None if model.layer_shape is None else model.layer_shape.find(model)
    if modules is None or global_hooks() is not None:
        return None
    hooked = _hooked(modules)
    for module, hook in hooked:  # without ours: put there after the model was made
        if hook not in (module._forward_hooks if hook is _scatter else module._forward_pre_hooks).values():
            return None
    calling = [*modules.around, *(module for module, _ in hooked)]
    if any(changed(module, _OWN_HOOKS) is not None for module in calling):
        return None
    for path, module in modules.behind:
        if not_row_wise(path, module, modules.row_wise, _OWN_HOOKS) is not None:
            return None
    for module in modules.around:
        # A layer that is computed again in backward would not find its rows. One that is compiled by itself would be
        # compiled for every number of rows.
        if (module.training and getattr(module, "gradient_checkpointing", False)) or (
            module is not modules.around[0] and getattr(module, "_compiled_call_impl", None) is not None
        ):
            return None
    # In a second place of the encoder these modules would find the rows of the first one.
    shared = {id(module): 0 for module in (modules.layer, *(module for module, _ in hooked))}
    _count(modules.around[0], shared)
    return modules if max(shared.values()) == 1 else None


def _count(module: nn.Module, places: dict[int, int]) -> None:
    """Adds up how often the modules with the ids of `places` stand below `module`."""
    for child in module._modules.values():
        if child is not None:
            if id(child) in places:
                places[id(child)] += 1
            _count(child, places)


def _expected(module: nn.Module, place: str) -> _Call | None:
    """The call in which `module` is the next to act, at `place`.

    None as well where gradients are off that were on: a reentrant checkpoint, which computes this again later.
    """
    call = _calls.current
    if call is None or call.expected != place or getattr(call.modules, place) is not module:
        return None
    return call if call.grad_enabled == torch.is_grad_enabled() else None


def _some_rows(call: _Call, x: Tensor) -> Tensor:
    """[B, L, H] -> [1, N, H].

    Raises:
        ValueError: other B or L than the text's, as behind embeddings that put tokens in front.
    """
    rows = call.rows
    longer = call.modules.padded and x.shape[1] > rows.length
    if x.shape[0] != rows.batch or (x.shape[1] != rows.length and not longer):
        raise ValueError(
            f"the encoder's hidden states have shape {list(x.shape)}, expected "
            f"[{rows.batch}, {rows.length}, H] as the input"
        )
    call.length = x.shape[1]
    return x.flatten(0, 1).index_select(0, _index(call, x.device))[None]


def _index(call: _Call, device: torch.device) -> Tensor:
    """The rows as the encoder counts them, int64 [N]: it may have put padding behind each row of the batch."""
    index, length = call.rows.index.to(device), call.rows.length
    if call.length != length:
        index = index + index.div(length, rounding_mode="floor") * (call.length - length)
    return index


def _narrow(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """[B, L, H] -> [1, N, H], the first input. One without padding, [tokens, H], stays as it is."""
    call = _expected(module, _NARROW)
    if call is None or not inputs or inputs[0].dim() < 3:
        return None
    call.whole, call.expected = inputs[0], _WIDEN
    return (_some_rows(call, inputs[0]), *inputs[1:])


def _widen(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """[1, N, H] -> [B, L, H]."""
    call = _expected(module, _WIDEN)
    if call is None:
        return None
    whole, call.whole, call.expected = call.whole, None, _GATHER
    return (whole, *inputs[1:])


def _gather(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """[B, L, H] each -> [1, N, H] each."""
    call = _expected(module, _GATHER)
    if call is None:
        return None
    call.calls_left -= 1
    if call.calls_left > 0:
        return None
    call.expected = _SCATTER
    return tuple(_some_rows(call, x) for x in inputs)


def _scatter(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    """[1, N, H] -> [B, L, H]."""
    call = _expected(module, _SCATTER)
    if call is None:
        return None
    call.expected = ""
    rows, shape = call.rows, (call.rows.batch, call.length, output.shape[-1])
    if output.shape[:-1] != (1, rows.index.shape[0]):
        raise RuntimeError(
            f"{type(module).__name__} of the encoder's last layer returned shape {list(output.shape)}, expected "
            f"[1, {rows.index.shape[0]}, H]: this version of transformers is not known; set "
            "config.span_pretraining['skip_unread_rows'] = False"
        )
    if rows.fill is None:
        full = output.new_zeros(shape)
    else:
        full = rows.fill.to(output).expand(shape).clone(memory_format=torch.contiguous_format)
    full.view(-1, output.shape[-1]).index_copy_(0, _index(call, output.device), output[0])
    return full


_OWN_HOOKS = (_narrow, _widen, _gather, _scatter)
