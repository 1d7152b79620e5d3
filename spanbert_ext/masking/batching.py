"""Rows of a dataset to rectangular tensors, and the token kinds that their columns ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad as pad_tensor
from torch.nn.utils.rnn import pad_sequence

from spanbert_ext.ops._common import may_read_values

# What stands in the padding of each column that runs along the tokens; every other column is padded with 0.
PADDING_VALUES = {"special_tokens_mask": 1, "token_kinds": 2}


def as_features(examples: Sequence[Any]) -> list[Mapping[str, Any]]:
    """Checks the examples of one batch and returns one mapping per row, all with the same columns.

    Raises:
        ValueError: no examples, a row without `input_ids`, or rows with different columns.
    """
    if len(examples) == 0:
        raise ValueError("the collator was called with an empty list of examples")
    # Tensors first: asking whether one is a Mapping takes longer than stacking it.
    bare = [isinstance(row, torch.Tensor) or not isinstance(row, Mapping) for row in examples]
    rows = [{"input_ids": row} if alone else row for row, alone in zip(examples, bare, strict=True)]
    columns = rows[0].keys()
    if "input_ids" not in columns:
        raise ValueError(f"example 0 has no column 'input_ids'; its columns are {sorted(columns)}")
    for index, row in enumerate(rows):
        if row.keys() != columns:
            raise ValueError(
                f"example {index} has the columns {sorted(row)}, example 0 has {sorted(columns)}"
            )
    return rows


def stack_if_equal(rows: Sequence[Any]) -> torch.Tensor | Sequence[Any]:
    """Tensors or arrays of one shape as one tensor `[B, ...]`, never touched one by one; other rows as they are."""
    try:
        if isinstance(rows[0], torch.Tensor):
            return torch.stack(list(rows))
        if isinstance(rows[0], np.ndarray):
            return torch.from_numpy(np.stack(rows))
    except (TypeError, ValueError, RuntimeError):  # shapes that differ, or kinds of rows mixed
        pass
    return rows


def row_lengths(name: str, column: torch.Tensor | Sequence[Any]) -> list[int]:
    """Lengths of the one-dimensional rows of a column, stacked or not.

    Raises:
        ValueError: a row is not one-dimensional.
    """
    if isinstance(column, torch.Tensor) and column.dim() == 2:
        return [column.shape[1]] * len(column)
    try:
        lengths = [len(row) for row in column]
    except TypeError as error:
        raise ValueError(f"column {name!r} must hold one sequence per example: {error}") from None
    for index, row in enumerate(column):
        if getattr(row, "ndim", 1) != 1:
            raise ValueError(
                f"{name!r} of example {index} has shape {tuple(row.shape)}, expected one dimension"
            )
    return lengths


def stack_or_pad(
    name: str, rows: torch.Tensor | Sequence[Any], padding_value: float, side: str, width: int | None
) -> Any:
    """One column as a tensor `[B, ...]`; rows that are no numbers (strings, mappings) stay a list.

    Rows of one length are stacked without a Python loop over their elements (a tensor is taken as stacked already).
    Others are padded on `side` with `padding_value`, to `width` columns or to the longest row. Python floats become
    float32.

    Raises:
        TypeError: a row holds something that is no number.
    """
    if isinstance(rows, torch.Tensor):
        column = rows
    elif not isinstance(rows[0], (torch.Tensor, np.ndarray, np.generic, list, tuple, int, float)):
        return list(rows)
    else:
        try:
            column = _stack_or_pad_rows(rows, padding_value, side)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"column {name!r} cannot become a tensor: {error}") from None
    missing = 0 if width is None or column.dim() < 2 else width - column.shape[1]
    if missing > 0:
        columns = (missing, 0) if side == "left" else (0, missing)
        column = pad_tensor(column, (0, 0) * (column.dim() - 2) + columns, value=padding_value)
    return column


def _stack_or_pad_rows(rows: Sequence[Any], padding_value: float, side: str) -> torch.Tensor:
    shapes = {
        row.shape if hasattr(row, "shape") else (len(row) if hasattr(row, "__len__") else ()) for row in rows
    }
    if len(shapes) > 1:
        return pad_sequence([_as_tensor(row) for row in rows], True, padding_value, side)
    stacked = stack_if_equal(rows)
    return stacked if isinstance(stacked, torch.Tensor) else _as_tensor(rows)


def _as_tensor(row: Any) -> torch.Tensor:
    if isinstance(row, torch.Tensor):
        return row
    if isinstance(row, np.ndarray):
        return torch.from_numpy(row.copy())  # a memory-mapped row may be read-only
    array = np.asarray(row)
    if array.dtype == object or array.dtype.kind not in "biuf":
        raise TypeError(f"expected numbers of one shape, found {array.dtype}")
    return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float64 else array)


def explicit_kinds(
    table: torch.Tensor,
    input_ids: torch.Tensor,
    token_kinds: torch.Tensor | None,
    special: torch.Tensor | None,
) -> torch.Tensor | None:
    """Token kinds where the rows' own columns change what the table by token id says.

    Args:
        table: uint8 `[V]`: 0 continues a word, 1 starts one, 2 is special.
        input_ids: int64 `[B, L]`.
        token_kinds: `[B, L]`, taken in place of the table.
        special: `[B, L]`, nonzero where nothing may be masked, or None.

    Returns:
        uint8 `[B, L]`; None where the table says everything.

    Raises:
        IndexError: an id beyond the table, naming the row and the position.
    """
    if token_kinds is None and special is None:
        return None
    if token_kinds is None:
        check_ids(input_ids, table.numel(), "the masker's table of token kinds")
        # on a GPU nothing has checked the ids; span_mask takes one out of range as special
        token_kinds = table.to(input_ids.device)[input_ids.clamp(0, table.numel() - 1)]
    kinds = token_kinds.to(torch.uint8)
    return kinds if special is None else kinds.masked_fill(special.bool(), 2)


def check_ids(input_ids: torch.Tensor, size: int, what: str) -> None:
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
