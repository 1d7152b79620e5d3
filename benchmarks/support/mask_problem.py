# SPDX-License-Identifier: Apache-2.0
"""The work of every provider of bench_span_mask.py: a batch of text in every form, and what a provider is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from support.text import FIRST_WORD, make_tokenizer, token_kinds

RATIO = 0.15


@dataclass(frozen=True)
class Text:
    """One batch in every form that a provider takes."""

    ids: Tensor  # [B, L] int64
    device: torch.device

    @cached_property
    def on_device(self) -> Tensor:
        return self.ids.to(self.device)

    @cached_property
    def special(self) -> Tensor:  # [B, L] bool
        return self.ids < FIRST_WORD

    @cached_property
    def offsets(self) -> Tensor:  # [B, L, 2] characters: three a token, a space before each word
        starts_word = token_kinds(int(self.ids.max()) + 1)[self.ids] != 0
        ends = torch.cumsum(3 + starts_word.long(), 1)
        return torch.stack([ends - 3, ends], 2)

    @cached_property
    def tensor_rows(self) -> list[Tensor]:
        return [row.clone() for row in self.ids]

    @cached_property
    def list_rows(self) -> list[dict[str, list[int]]]:
        """As tokenizers return them."""
        return [
            {
                "input_ids": ids,
                "attention_mask": [1] * len(ids),
                "special_tokens_mask": [int(id < FIRST_WORD) for id in ids],
            }
            for ids in self.ids.tolist()
        ]


@dataclass(frozen=True)
class Provider:
    """`work(prepare(text), call)` is timed without `prepare`; it returns ids and, if it masks, labels."""

    work: Callable[[Any, int], tuple[Any, Any]]
    prepare: Callable[[Text], Any]
    on_device: bool = False
    exact: bool = False  # masks the very share; others do on average
    masks: bool = True


@dataclass
class Setting:
    vocab: int
    device: torch.device
    tokenizer: Any = field(init=False)

    def __post_init__(self) -> None:
        self.tokenizer = make_tokenizer(self.vocab)

    @cached_property
    def random_ids(self) -> Tensor:
        return torch.arange(FIRST_WORD, self.vocab)


Builder = Callable[[Setting], Provider]
"""Raises Unavailable, with the reason, for a provider that cannot run there."""
