# SPDX-License-Identifier: Apache-2.0
"""Which columns of a row have an element for each token, and so the width of the ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from spanbert_ext.masking.token_columns import TOKEN_COLUMNS

# One number a token: rows of another length than the ids are refused.
ALONG_TOKENS = (
    *("attention_mask", "token_type_ids", "position_ids", "special_tokens_mask", "token_kinds"),
    *TOKEN_COLUMNS,
)
# What ERNIE, LayoutLM, Longformer and XLM read along the tokens, one number or more for each.
NATIVE_ALONG_TOKENS = ("task_type_ids", "bbox", "global_attention_mask", "langs")


def is_along_tokens(name: str, rows: Tensor | Sequence[Any], lengths: list[int]) -> bool:
    """Whether a column that is none of ALONG_TOKENS has an element for each token, and so the width of the ids.

    Its rows are as long as the ids' `lengths`. Where these are all equal, that is no proof (a vector of as many
    features must keep its size) and the name has to be known. Rows of different lengths are padded in any case.
    """
    if name not in NATIVE_ALONG_TOKENS and min(lengths) == max(lengths):
        return False
    if isinstance(rows, Tensor):
        return rows.dim() >= 2 and lengths == [rows.shape[1]] * len(rows)
    try:
        return lengths == [len(row) for row in rows]
    except TypeError:  # numbers
        return False


def row_lengths(name: str, column: Tensor | Sequence[Any]) -> list[int]:
    """Lengths of the one-dimensional rows of a column, stacked or not.

    Raises:
        ValueError: a row is not one-dimensional.
    """
    if isinstance(column, Tensor) and column.dim() == 2:
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


def check_lengths(name: str, lengths: list[int], expected: list[int]) -> None:
    """Raises ValueError naming the first example whose column is not as long as its ids."""
    if lengths == expected:
        return
    for index, (length, tokens) in enumerate(zip(lengths, expected, strict=True)):
        if length != tokens:
            raise ValueError(f"{name!r} of example {index} has {length} entries for {tokens} input_ids")
