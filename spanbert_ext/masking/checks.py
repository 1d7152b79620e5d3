# SPDX-License-Identifier: Apache-2.0
"""Checks of what callers pass. Nothing is cast to a type that cannot hold it: a fraction or a bool is no integer.

Every message names the argument, what it was and what was expected. Of a tensor on a GPU only dtype and shape are
checked, unless SPANBERT_EXT_DEBUG=1.
"""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spanbert_ext.ops._common import integer, may_read_values, shown

EPOCHS = 2**32  # the epoch is one 32-bit word of the sampler's counter
KINDS = "0 (continues a word), 1 (starts a word) or 2 (special)"
PAIRS = "1 (random), 0 (continues) or a negative one (no target)"
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1  # of int64
_HANDY = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """`value`; raises ValueError when it is none of `choices`."""
    if not isinstance(value, str) or value not in choices:
        given = repr(value) if isinstance(value, str) else shown(value)
        raise ValueError(f"{name} is {given}; expected one of {', '.join(map(repr, choices))}")
    return value


def epoch_number(epoch: Any) -> int:
    """`epoch` as an int; raises TypeError for no integer, ValueError outside 0 ... 2**32 - 1."""
    number = integer("epoch", epoch, "an integer in 0 ... 2**32 - 1")
    if not 0 <= number < EPOCHS:
        raise ValueError(f"epoch must be in 0 ... 2**32 - 1, not {number}")
    return number


def integer_tensor(
    name: str, values: Any, device: torch.device | str | None = None, expected: str = "integers"
) -> Tensor:
    """Tensors, arrays and nested sequences of integers as int64, on `device` or where they are.

    Raises:
        TypeError: other elements, integral floats and bools among them; uint64 on a GPU, where none can be checked.
        ValueError: an element beyond int64.
    """
    if isinstance(values, Tensor):
        return _moved(name, _signed(name, values, expected), device).to(torch.int64)
    array = _integer_array(name, values, expected)
    # copies what torch cannot share: read-only memory, negative strides, other byte orders
    return torch.from_numpy(np.require(array, np.int64, ["C", "W"])).to(device)


def epoch_tensor(name: str, values: Any) -> Tensor:
    """Epochs as int64; raises as `integer_tensor`, and ValueError outside 0 ... 2**32 - 1."""
    epochs = integer_tensor(name, values)
    check_range(name, epochs, 0, EPOCHS - 1, "0 to 2^32 - 1")
    return epochs


def kind_tensor(name: str, values: Any, device: torch.device | str | None = None) -> Tensor:
    """Token kinds as uint8, on `device` or where they are. The operator checks the elements of what is uint8 already.

    Raises:
        TypeError: no integers.
        ValueError: an element that is no kind. A wider tensor on a GPU, whose elements are not read, becomes special.
    """
    if isinstance(values, Tensor) and values.dtype == torch.uint8:
        return _moved(name, values, device)
    if isinstance(values, np.ndarray) and values.dtype == np.uint8:
        return torch.from_numpy(np.require(values, None, ["C", "W"])).to(device)
    source = integer_tensor(name, values, expected=f"integers, {KINDS}")
    kinds = _moved(name, source, device)
    readable = source if may_read_values(source) else kinds
    if may_read_values(readable):
        check_range(name, readable, 0, 2, KINDS)
    else:
        kinds = kinds.clamp(-1, 255)  # whose last byte is 255: not another kind
    return kinds.to(torch.uint8)


def pair_tensor(name: str, values: Any) -> Tensor:
    """What is known of pairs, as int64: 1 (or True) the second part is random, 0 it continues, negative: no target.

    Raises:
        TypeError: neither integers nor bools.
        ValueError: an integer above 1 (on a GPU only when SPANBERT_EXT_DEBUG=1), or beyond int64.
    """
    pairs = mask_tensor(name, values, expected=f"integers, {PAIRS}, or bools").to(torch.int64)
    check_range(name, pairs, _LOWEST, 1, PAIRS)
    return pairs


def special_tensor(name: str, values: Any, device: torch.device | str | None = None) -> Tensor:
    """A mask of zeros and ones, or of bools, as bool, on `device` or where it is.

    Raises:
        TypeError: neither bools nor integers.
        ValueError: an element that is neither 0 nor 1 (on a GPU only when SPANBERT_EXT_DEBUG=1).
    """
    mask = mask_tensor(name, values, device, "zeros and ones, or bools")
    if mask.dtype != torch.bool:
        check_range(name, mask, 0, 1, "0 or 1")
    return mask.to(torch.bool)


def mask_tensor(
    name: str, values: Any, device: torch.device | str | None = None, expected: str = "bools or integers"
) -> Tensor:
    """Bools as bool, integers as integers, on `device` or where they are; raises as `integer_tensor`."""
    if isinstance(values, Tensor):
        return _moved(name, values if values.dtype == torch.bool else _signed(name, values, expected), device)
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # integer_tensor raises for it
        array = None
    if array is not None and array.dtype == np.bool_:
        return torch.from_numpy(array.copy()).to(device)
    return integer_tensor(name, values, device, expected)


def check_range(name: str, values: Tensor, low: int, high: int, expected: str) -> None:
    """Raises ValueError naming the first element outside low ... high; on a GPU only when SPANBERT_EXT_DEBUG=1."""
    if values.numel() == 0 or not may_read_values(values):
        return
    smallest, largest = values.aminmax()
    if smallest < low or largest > high:
        index = tuple(((values < low) | (values > high)).nonzero()[0].tolist())
        raise ValueError(f"{element(name, index)} is {int(values[index])}; expected {expected}")


def element(name: str, index: tuple[int, ...]) -> str:
    """`name[i, j]`; the name alone for what has no dimension."""
    return f"{name}[{', '.join(map(str, index))}]" if index else name


def _moved(name: str, values: Tensor, device: torch.device | str | None) -> Tensor:
    """A dense tensor on `device`, or where it is."""
    if values.is_nested:
        raise TypeError(f"{name} is a nested tensor; expected a plain one")
    if values.layout != torch.strided:
        raise TypeError(f"{name} is a tensor of layout {values.layout}; expected a dense one")
    if device is not None and values.is_meta and torch.device(device).type != "meta":
        raise ValueError(f"{name} is on meta, where tensors have no elements; expected {device}")
    return values.to(device)


def _signed(name: str, values: Tensor, expected: str) -> Tensor:
    """Integers that int64 can hold, of a dtype that all of torch's operators take."""
    if values.dtype in _HANDY:
        return values
    if values.dtype in (torch.uint16, torch.uint32):  # torch has few operators for them
        return values.to(torch.int64)
    if values.dtype != torch.uint64:
        raise TypeError(f"{name} is {shown(values)}; expected {expected}")
    if not may_read_values(values):
        raise TypeError(
            f"{name} is {shown(values)} on {values.device}; expected int64, whose elements need no check"
        )
    signed = values.view(torch.int64)
    if (signed < 0).any():
        index = tuple((signed < 0).nonzero()[0].tolist())
        raise ValueError(
            f"{element(name, index)} is {int(signed[index]) + 2**64}; expected {expected} below 2^63"
        )
    return signed


def _integer_array(name: str, values: Any, expected: str) -> np.ndarray:
    """Integers that int64 can hold, of any integer dtype."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # rows of different lengths, tensors on a GPU
        raise TypeError(f"{name} is {shown(values)}; expected {expected} in rows of one length") from None
    if array.size == 0 and not isinstance(values, np.ndarray):
        return array.astype(np.int64)  # an empty list has no dtype
    if array.dtype.kind in "iu" and not (array.dtype == np.uint64 and (array > _HIGHEST).any()):
        return array
    for index, value in np.ndenumerate(np.asarray(values, dtype=object)):
        if isinstance(value, numbers.Integral) and not isinstance(value, bool):
            if not _LOWEST <= int(value) <= _HIGHEST:
                raise ValueError(f"{element(name, index)} is {int(value)}; expected {expected} below 2^63")
        elif not isinstance(values, np.ndarray):
            raise TypeError(f"{element(name, index)} is {shown(value)}; expected {expected}")
    raise TypeError(f"{name} is {shown(values)}; expected {expected}")
