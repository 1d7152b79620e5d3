# SPDX-License-Identifier: Apache-2.0
"""A dictionary of tensors under published names, checked by the table and put under our names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from spanbert_ext.convert.checkpoint_file import CheckpointError
from spanbert_ext.convert.published_names import (
    COPIES,
    LAYER,
    PARTS,
    POSITIONS,
    PREFIX,
    SIZES,
    SLOTS,
    Entry,
    entries,
    present_name,
    shape_of,
)
from spanbert_ext.files.bars import bars_shown

_NAMED = 4  # keys that one message names
_OF_ENCODER = ("bert.embeddings.", "bert.encoder.")


@dataclass(frozen=True)
class PublishedState:
    """A whole encoder with whole heads, or without them."""

    tensors: dict[str, Tensor]  # by our names, float32
    sizes: dict[str, int]  # of published_names.SIZES that are there, and "layers"
    parts: tuple[str, ...]  # of published_names.PARTS
    dtypes: tuple[str, ...]  # in the file
    prefixed: bool
    left_out: tuple[str, ...]  # keys of the file that no model of ours has

    @property
    def nsp(self) -> bool:
        return "NSP head" in self.parts


@dataclass(frozen=True)
class _Found:
    key: str  # in the file
    tensor: Tensor


def check_state(
    state: Mapping[Any, Any], where: str, others: bool = False, progress: bool = False
) -> PublishedState:
    """The tensors of a checkpoint, once nothing is missing, unknown or of another shape.

    Args:
        state: keys with or without `decoder.` before them, LayerNorms with gamma and beta or with weight and bias,
            tensors of any floating type.
        where: what an error calls it.
        others: keys that the table does not have are left out, as those of a head for a task, unless they are the
            encoder's, which computes something else without them; else refused.
        progress: a bar, where a terminal shows it.

    Raises:
        CheckpointError: naming the key: missing, not known, twice there, of another shape than the others say, of no
            floating type, with NaN or infinities, or a copy of a tensor that differs from it.
    """
    found = _by_published_name(state, where)
    spelling = _Spelling(found)
    layers = _count_layers(found, where)
    begun = {COPIES.get(name, name) for name in found}
    parts = tuple(part for part, rows in PARTS.items() if any(entry.published in begun for entry in rows()))
    if "NSP head" in parts and "pooler" not in parts:
        parts = (*(part for part in parts if part != "NSP head"), "pooler", "NSP head")
    table = entries(layers, parts)
    _refuse_missing(table, found, where, spelling)
    known = {entry.published for entry in table} | COPIES.keys() | {POSITIONS}
    unknown = [name for name in found if name not in known]
    strangers = tuple(found[name].key for name in unknown)
    refused = [found[name].key for name in unknown if not others or name.startswith(_OF_ENCODER)]
    if refused:
        raise CheckpointError(
            f"{where}: {listed(refused)} {'is' if len(refused) == 1 else 'are'} unknown: no SpanBERT has"
            " such a tensor"
        )
    sizes = _sizes(found, where) | {"layers": layers}
    tensors, dtypes = {}, {}
    for entry in tqdm(table, "reading", disable=not bars_shown(progress), leave=False):
        item = found[entry.published]
        tensors[entry.ours] = _as_float32(item, shape_of(entry, sizes), where)
        dtypes[str(item.tensor.dtype).removeprefix("torch.")] = None
    _check_copies(found, tensors, where)
    prefixed = any(item.key.startswith(PREFIX) for item in found.values())
    return PublishedState(tensors, sizes, parts, tuple(dtypes), prefixed, strangers)


def _by_published_name(state: Mapping[Any, Any], where: str) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    if not state:
        raise CheckpointError(f"{where} holds no tensor")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{where}: {key!r} holds a {type(value).__name__}; expected tensors by their names, or these"
                " as a dictionary under 'model'"
            )
        name = present_name(key.removeprefix(PREFIX))
        if name.partition(".")[0] in ("embeddings", "encoder", "pooler"):  # an encoder that was saved alone
            name = f"bert.{name}"
        if name in found:
            raise CheckpointError(f"{where}: {found[name].key} and {key} are two names of one tensor")
        found[name] = _Found(key, value)
    return found


class _Spelling:
    """How a file would write a name that it does not have."""

    def __init__(self, found: Mapping[str, _Found]) -> None:
        keys = [item.key for item in found.values()]
        self._prefix = PREFIX if any(key.startswith(PREFIX) for key in keys) else ""
        self._gamma = any(key.endswith(".gamma") for key in keys)

    def __call__(self, entry: Entry) -> str:
        return self._prefix + (entry.gamma_beta if self._gamma else entry.published)


def _count_layers(found: Mapping[str, _Found], where: str) -> int:
    numbers = {int(match[1]) for name in found if (match := LAYER.match(name))}
    if not numbers:
        raise CheckpointError(
            f"{where} has no layer of an encoder: no key bert.encoder.layer.0.* (its first keys:"
            f" {listed([item.key for item in found.values()])})"
        )
    for number in range(max(numbers)):
        if number not in numbers:
            raise CheckpointError(
                f"{where}: bert.encoder.layer.{number}.* is missing, but there is bert.encoder.layer.{max(numbers)}.*"
            )
    return max(numbers) + 1


def _refuse_missing(table: list[Entry], found: Mapping[str, _Found], where: str, spelling: _Spelling) -> None:
    missing = [spelling(entry) for entry in table if entry.published not in found]
    if missing:
        raise CheckpointError(f"{where}: {listed(missing)} {'is' if len(missing) == 1 else 'are'} missing")


def _sizes(found: Mapping[str, _Found], where: str) -> dict[str, int]:
    sizes = {}
    for size, (name, dimension) in SIZES.items():
        if name not in found and name == SLOTS:
            continue
        item = found[name]
        if item.tensor.dim() != 2 or 0 in item.tensor.shape:
            raise CheckpointError(
                f"{where}: {item.key} has shape {list(item.tensor.shape)}, expected a matrix"
            )
        sizes[size] = item.tensor.shape[dimension]
    return sizes


def _as_float32(item: _Found, shape: list[int], where: str) -> Tensor:
    tensor = item.tensor
    if list(tensor.shape) != shape:
        raise CheckpointError(
            f"{where}: {item.key} has shape {list(tensor.shape)}, expected {shape} by the sizes of the embeddings and"
            " of the first layer"
        )
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
        layout = "no values" if tensor.is_meta else f"layout {tensor.layout}"
        raise CheckpointError(
            f"{where}: {item.key} has dtype {tensor.dtype} and {layout}, expected a dense tensor of a floating type"
        )
    stored = tensor.untyped_storage().nbytes() // tensor.element_size()
    if stored < tensor.numel():
        raise CheckpointError(
            f"{where}: {item.key} has shape {shape}, but the file has {stored:,} numbers of it"
        )
    try:
        tensor = tensor.detach().to(torch.float32)
    except NotImplementedError as error:  # numbers that are packed, as of float4
        raise CheckpointError(
            f"{where}: {item.key} has dtype {tensor.dtype}, which torch makes no float32 of"
        ) from error
    if not tensor.isfinite().all():
        raise CheckpointError(f"{where}: {item.key} holds NaN or an infinity")
    return tensor


def _check_copies(found: Mapping[str, _Found], tensors: Mapping[str, Tensor], where: str) -> None:
    for name, of in COPIES.items():
        if name not in found:
            continue
        copy, original = found[name], tensors[of]
        if not torch.equal(_as_float32(copy, list(original.shape), where), original):
            raise CheckpointError(
                f"{where}: {copy.key} differs from {found[of].key}: the decoder is not tied, and in a SpanBERT it is"
            )


def listed(keys: list[str] | tuple[str, ...]) -> str:
    """The first of some keys, and how many more there are."""
    more = len(keys) - _NAMED
    return ", ".join(keys[:_NAMED]) + (f" and {more} more" if more > 0 else "")
