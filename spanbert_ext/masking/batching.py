# SPDX-License-Identifier: Apache-2.0
"""Rows of a dataset to rectangular tensors, and the token kinds that follow from their columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad as pad_tensor
from torch.nn.utils.rnn import pad_sequence

from spanbert_ext.masking.along_tokens import ALONG_TOKENS, check_lengths, is_along_tokens, row_lengths
from spanbert_ext.masking.checks import (
    epoch_tensor,
    integer_tensor,
    kind_tensor,
    mask_tensor,
    pair_tensor,
    special_tensor,
)
from spanbert_ext.masking.token_columns import TOKEN_COLUMNS
from spanbert_ext.ops._common import may_read_values, shown

# The padding of the columns along the tokens; those of TOKEN_COLUMNS have the ids', every other one 0.
PADDING_VALUES = {"special_tokens_mask": 1, "token_kinds": 2}
CHECKS = {
    "attention_mask": mask_tensor,
    "sample_ids": integer_tensor,
    "sample_epoch": epoch_tensor,
    "token_kinds": kind_tensor,
    **dict.fromkeys(TOKEN_COLUMNS, integer_tensor),
    "special_tokens_mask": special_tensor,
    "is_random_next": pair_tensor,
    "next_sentence_label": pair_tensor,
}


def as_features(examples: Sequence[Any]) -> list[Mapping[str, Any]]:
    """Checks the examples of one batch and returns one mapping per row, all with the same columns.

    Raises:
        TypeError: no list of examples.
        ValueError: no examples, a row without `input_ids`, or rows with different columns.
    """
    one = isinstance(examples, (Mapping, str)) or getattr(examples, "ndim", 1) == 0
    if one or not hasattr(examples, "__len__"):
        raise TypeError(f"the collator was called with {shown(examples)}; expected a list of examples")
    if len(examples) == 0:
        raise ValueError("the collator was called with an empty list of examples")
    # Tensors first: isinstance(tensor, Mapping) takes longer than stacking it.
    bare = [isinstance(row, Tensor) or not isinstance(row, Mapping) for row in examples]
    rows = [{"input_ids": row} if alone else row for row, alone in zip(examples, bare, strict=True)]
    columns = rows[0].keys()
    if "input_ids" not in columns:
        raise ValueError(f"example 0 has no column 'input_ids'; its columns are {sorted(columns)}")
    for index, row in enumerate(rows):
        if not bare[index] and row.keys() != columns:
            raise ValueError(
                f"example {index} has the columns {sorted(row)}, example 0 has {sorted(columns)}"
            )
    return rows


def to_tensors(
    given: Mapping[str, Sequence[Any]], tokenizer: Any, multiple: int | None
) -> tuple[dict[str, Any], bool]:
    """Every column as a tensor, those along the tokens in one width; always with an attention mask.

    Args:
        given: the columns by name, one element a row; with `input_ids`.
        tokenizer: with the padding token and side.
        multiple: the width is rounded up to a multiple of it.

    Returns:
        The tensors by name, and whether the rows have no padding, so that the masker needs no mask.
    """
    columns = {name: stack_if_equal(rows) for name, rows in given.items()}
    lengths = row_lengths("input_ids", columns["input_ids"])
    width = max(lengths)
    if multiple is not None:
        width = -(-width // multiple) * multiple
    ragged = min(lengths) < width
    if ragged and tokenizer.pad_token_id is None:
        raise ValueError(
            f"{min(lengths)} tokens need padding to {width}, but the tokenizer has no padding token"
        )
    own_mask = "attention_mask" in columns
    if not own_mask and not ragged:
        columns["attention_mask"] = torch.ones(len(lengths), width, dtype=torch.int64)
    elif not own_mask:
        columns["attention_mask"] = [torch.ones(length, dtype=torch.int64) for length in lengths]

    side = getattr(tokenizer, "padding_side", "right")
    batch = {}
    for name, rows in columns.items():
        as_ids = name == "input_ids" or name in TOKEN_COLUMNS
        value = tokenizer.pad_token_id if as_ids else PADDING_VALUES.get(name, 0)
        if name == "candidates":
            batch[name] = stack_candidates(
                rows, [width - length if side == "left" else 0 for length in lengths]
            )
            continue
        along_tokens = name == "input_ids" or name in ALONG_TOKENS
        if along_tokens and name != "input_ids":
            check_lengths(name, row_lengths(name, rows), lengths)
        follows = along_tokens or is_along_tokens(name, rows, lengths)
        make = partial(stack_or_pad, name, rows, value or 0, side, width if follows else None)
        if name in CHECKS and name in given:
            batch[name] = by_example(CHECKS[name], name, given[name], make, int(along_tokens))
        else:
            batch[name] = make()
        if along_tokens and not isinstance(batch[name], Tensor):
            raise TypeError(
                f"column {name!r} holds {shown(rows[0])}; expected one list of numbers per example"
            )
    batch["input_ids"] = integral_ids(given["input_ids"], batch["input_ids"])
    return batch, not ragged and (not own_mask or bool(batch["attention_mask"].all()))


def stack_if_equal(rows: Sequence[Any]) -> Tensor | Sequence[Any]:
    """Tensors or arrays of one shape as one tensor `[B, ...]`, never touched one by one; other rows as they are."""
    try:
        if isinstance(rows[0], Tensor):
            return _typed(torch.stack(list(rows)))
        if isinstance(rows[0], np.ndarray):
            return _typed(torch.from_numpy(np.stack(rows)))
    except (TypeError, ValueError, RuntimeError):  # shapes that differ, or kinds of rows mixed
        pass
    return rows


def stack_or_pad(
    name: str, rows: Tensor | Sequence[Any], padding_value: float, side: str, width: int | None
) -> Any:
    """One column as a tensor `[B, ...]`; rows that are no numbers (strings, mappings) stay a list.

    Rows of one length are stacked without a Python loop over their elements (a tensor is taken as stacked already).
    Others are padded on `side` with `padding_value`, to `width` columns or to the longest row. Python floats become
    float32.

    Raises:
        TypeError: a row holds something that is no number.
    """
    if isinstance(rows, Tensor):
        column = rows
    elif not isinstance(rows[0], (Tensor, np.ndarray, np.generic, list, tuple, int, float)):
        return list(rows)
    else:
        try:
            column = _stack_or_pad_rows(rows, padding_value, side)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise TypeError(f"column {name!r} cannot become a tensor: {error}") from None
    missing = 0 if width is None or column.dim() < 2 else width - column.shape[1]
    if missing > 0:
        columns = (missing, 0) if side == "left" else (0, missing)
        column = pad_tensor(column, (0, 0) * (column.dim() - 2) + columns, value=padding_value)
    return column


def _stack_or_pad_rows(rows: Sequence[Any], padding_value: float, side: str) -> Tensor:
    shapes = {
        row.shape if hasattr(row, "shape") else (len(row) if hasattr(row, "__len__") else ()) for row in rows
    }
    if len(shapes) > 1:
        tensors = [_as_tensor(row) for row in rows]
        if (
            len({row.dtype for row in tensors}) > 1
        ):  # pad_sequence would cast all rows to the first one's dtype
            dtype = reduce(torch.promote_types, (row.dtype for row in tensors))
            tensors = [row.to(dtype) for row in tensors]
        return pad_sequence(tensors, True, padding_value, side)
    stacked = stack_if_equal(rows)
    return stacked if isinstance(stacked, Tensor) else _as_tensor(rows)


def _as_tensor(row: Any) -> Tensor:
    if isinstance(row, Tensor):
        return _typed(row)
    if isinstance(row, np.ndarray):
        return _typed(torch.from_numpy(row.copy()))  # a memory-mapped row may be read-only
    array = np.asarray(row)
    if array.size == 0:
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise TypeError(f"expected numbers of one shape, found {array.dtype}")
    return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float64 else array)


def _typed(column: Tensor) -> Tensor:
    """Without elements the float that torch.tensor([]) is says nothing: int64, which takes the other rows' dtype."""
    return column.to(torch.int64) if column.numel() == 0 and column.is_floating_point() else column


def _is_empty(row: Any) -> bool:
    return isinstance(row, (Tensor, np.ndarray)) and 0 in row.shape


def integral_ids(rows: Sequence[Any], input_ids: Tensor) -> Tensor:
    """`input_ids` as int64; raises TypeError or ValueError naming the first example whose ids are no integers."""
    try:
        return integer_tensor("input_ids", input_ids)
    except (TypeError, ValueError) as found:
        error = found
    for index, row in enumerate(rows):
        try:
            integer_tensor("input_ids", [] if _is_empty(row) else row)
        except (TypeError, ValueError) as found:
            raise type(found)(
                f"input_ids must be integers, not {input_ids.dtype} (example {index}: {found})"
            ) from None
    raise error


def stack_candidates(rows: Sequence[Any], shifts: list[int]) -> Tensor:
    """Ragged lists of half-open spans to int64 `[B, M, 2]`, padded with -1; each moved by its row's shift."""
    spans = [_spans(f"example {index}: candidates", row) for index, row in enumerate(rows)]
    batch = torch.full((len(rows), max(map(len, spans)), 2), -1, dtype=torch.int64)
    for target, row, shift in zip(batch, spans, shifts, strict=True):
        target[: len(row)] = torch.where(row < 0, row, row + shift)
    return batch


def _spans(name: str, row: Any) -> Tensor:
    """The half-open spans of one row, int64 `[M, 2]`."""
    expected = "spans [[start, end], ...] of integers"
    spans = integer_tensor(name, [] if _is_empty(row) else row, expected=expected)
    if spans.numel() == 0:
        return spans.reshape(0, 2)
    if spans.dim() != 2 or spans.shape[1] != 2:
        raise ValueError(f"{name} has shape {list(spans.shape)}; expected {expected}")
    return spans


def by_example(
    check: Callable[[str, Any], Tensor], name: str, rows: Sequence[Any], make: Callable[[], Any], dim: int
) -> Tensor:
    """`check(name, make())`, the column of `rows` as a tensor; what it raises names the example that is wrong.

    `dim`: of one row.
    """
    error = None
    try:
        column = check(name, make())
        if column.dim() == dim + 1:
            return column
    except (TypeError, ValueError) as found:
        error = found
    for index, row in enumerate(rows):
        if dim == 1 and _is_empty(row):
            continue
        shape = list(check(f"example {index}: {name}", row).shape)
        if len(shape) != dim:
            expected = "one number a token" if dim else "one number"
            raise ValueError(f"example {index}: {name} has shape {shape}; expected {expected}")
    raise error  # no row is wrong by itself


def explicit_kinds(
    table: Tensor,
    input_ids: Tensor,
    token_kinds: Tensor | None,
    special: Tensor | None,
) -> Tensor | None:
    """Token kinds of the rows' own columns, where they differ from the table by token id.

    Args:
        table: uint8 `[V]`: 0 continues a word, 1 starts one, 2 is special.
        input_ids: int64 `[B, L]`.
        token_kinds: `[B, L]`, taken in place of the table.
        special: `[B, L]`, 1 where nothing may be masked, else 0, or None.

    Returns:
        uint8 `[B, L]`; None without columns, where the table is enough.

    Raises:
        IndexError: an id beyond the table, naming the row and the position.
        TypeError: columns of another dtype.
        ValueError: columns of another shape; an element that is no kind, or in `special` neither 0 nor 1.
    """
    if token_kinds is None and special is None:
        return None
    for name, column in (("token_kinds", token_kinds), ("special_tokens_mask", special)):
        if column is not None and column.shape != input_ids.shape:
            raise ValueError(
                f"{name} has shape {list(column.shape)}; expected that of input_ids, {list(input_ids.shape)}"
            )
    if token_kinds is None:
        check_ids(input_ids, table.numel(), "the masker's table of token kinds")
        if not may_read_values(input_ids):  # unchecked ids; in span_mask one out of range is special
            input_ids = input_ids.clamp(0, table.numel() - 1)
        kinds = table.to(input_ids.device)[input_ids]
    else:
        kinds = kind_tensor("token_kinds", token_kinds)
    return (
        kinds
        if special is None
        else kinds.masked_fill(special_tensor("special_tokens_mask", special, kinds.device), 2)
    )


def check_ids(input_ids: Tensor, size: int, what: str) -> None:
    """Raises IndexError for an id outside 0 ... size - 1; on a GPU only when SPANBERT_EXT_DEBUG=1."""
    if not may_read_values(input_ids) or input_ids.numel() == 0:
        return
    low, high = input_ids.aminmax()
    if low >= 0 and high < size:
        return
    row, position = ((input_ids < 0) | (input_ids >= size)).nonzero()[0].tolist()
    raise IndexError(
        f"input_ids[{row}, {position}] is {int(input_ids[row, position])}, but {what} has {size} ids"
    )
