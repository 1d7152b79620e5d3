# SPDX-License-Identifier: Apache-2.0
"""Rows that the collator's tests share."""

from __future__ import annotations

import torch
from tiny_models import VOCABULARY, tiny_texts, tiny_tokenizer

TENSORS = ("input_ids", "labels", "masked_positions", "left_boundary", "right_boundary", "attention_mask")


def ragged_rows() -> list[dict]:
    """40 rows of 12, 22 or 32 tokens."""
    tokenizer = tiny_tokenizer()
    return [dict(tokenizer(text)) for text in tiny_texts(40)]


def rectangle(count: int = 8, length: int = 20, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, len(VOCABULARY) - 6, (count, length), generator=generator)
    ids[:, 0], ids[:, -1] = VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]
    return ids
