# SPDX-License-Identifier: Apache-2.0
"""Columns that a tokenizer makes of each token beside its id: an encoder would read in them what is masked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from spanbert_ext.ops._common import shown

# RoCBertTokenizer's: by column, its method that makes such numbers of tokens.
TOKEN_COLUMNS = {
    "input_shape_ids": "convert_tokens_to_shape_ids",
    "input_pronunciation_ids": "convert_tokens_to_pronunciation_ids",
}


def refuse_token_columns(inputs: Mapping[str, Any]) -> None:
    """Raises `ValueError` where an encoder's inputs have such a column of text that is masked without its tokenizer."""
    if given := [name for name in TOKEN_COLUMNS if inputs.get(name) is not None]:
        raise ValueError(
            f"{given[0]} is made of the tokens and would show the encoder the masked ones: leave {' and '.join(given)} "
            "out, or mask by DataCollatorForSpanMasking, which makes such columns of the masked text"
        )


def token_columns_of(
    columns: dict[str, Tensor], input_ids: Tensor, masked: Tensor, tokenizer: Any
) -> dict[str, Tensor]:
    """Those of `columns` that are made of tokens, at masked positions of the tokens that stand there now.

    Args:
        columns: integers `[B, L]` by name, as of the text before it was masked.
        input_ids: `[B, L]` after masking.
        masked: bool `[B, L]`.

    Returns:
        New tensors, by name, of the columns' dtypes.

    Raises:
        ValueError: the tokenizer cannot make such a column of tokens.
    """
    found = {name: method for name, method in TOKEN_COLUMNS.items() if name in columns}
    if not found:
        return {}
    lacking = [name for name, method in found.items() if not hasattr(tokenizer, method)]
    if lacking:
        raise ValueError(
            f"the dataset's columns {lacking} are made of the tokens and would show the encoder the masked ones, and "
            f"the tokenizer, {shown(tokenizer)}, cannot make them of the masked text "
            f"({', '.join(TOKEN_COLUMNS[name] for name in lacking)}): use RoCBertTokenizer, or "
            f"dataset.remove_columns({lacking})"
        )
    ids, places = input_ids[masked].unique(return_inverse=True)
    tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
    replaced = {}
    for name, method in found.items():
        values = torch.tensor(getattr(tokenizer, method)(tokens), dtype=columns[name].dtype)
        replaced[name] = columns[name].masked_scatter(masked, values[places])
    return replaced
