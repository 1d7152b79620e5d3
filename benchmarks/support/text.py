# SPDX-License-Identifier: Apache-2.0
"""Made-up text of the benchmarks: shapes, random token ids and a tokenizer over them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PAD, CLS, SEP, MASK, FIRST_WORD = 0, 1, 2, 3, 4  # the token ids of the made-up vocabulary
IGNORED = -100  # a label where nothing is predicted
CASED_WORDPIECE = 28_996
TINY_VOCAB = 257
HIDDEN_SIZES = {"tiny": 32, "base": 768, "large": 1024}


@dataclass(frozen=True)
class Shape:
    """Sizes of one problem. `ragged`: a line of text a row, so that about 35 % of the positions are text."""

    name: str
    hidden: int  # H, and D: the decoder is tied to an embedding of that width
    vocab: int  # V
    rows: int  # B
    length: int  # L
    position_dim: int = 200  # P
    position_slots: int = 20  # S
    ragged: bool = False

    @staticmethod
    def parse(name: str, vocab: int | None = None) -> Shape:
        """(tiny|base|large)-ROWSxLENGTH with an optional `-ragged`; `tiny` is tiny-2x32. ValueError otherwise."""
        found = re.fullmatch(
            r"(tiny|base|large)-([1-9]\d*)x([1-9]\d*)(-ragged)?", "tiny-2x32" if name == "tiny" else name
        )
        if not found or int(found[3]) < 8:
            raise ValueError(
                f"shape {name!r} is not `tiny` or of the form base-8x512, large-32x512, base-32x512-ragged "
                "(rows x tokens, at least 8 tokens)"
            )
        tiny = found[1] == "tiny"
        return Shape(
            name,
            HIDDEN_SIZES[found[1]],
            vocab or (TINY_VOCAB if tiny else CASED_WORDPIECE),
            int(found[2]),
            int(found[3]),
            position_dim=8 if tiny else 200,
            ragged=bool(found[4]),
        )


def sample_text(shape: Shape, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random ids between [CLS] and [SEP] and their attention mask, both int64 [B, L].

    Words are as frequent as in a natural language: the n-th id has a share near 1/n.
    """
    words = shape.vocab - FIRST_WORD
    rank = torch.rand(shape.rows, shape.length, generator=generator).mul(math.log(words)).exp().long()
    ids = FIRST_WORD - 1 + rank.clamp(1, words)
    lengths = torch.full((shape.rows, 1), shape.length)
    if shape.ragged:
        lengths = torch.randint(
            min(16, shape.length), 2 * shape.length // 3, (shape.rows, 1), generator=generator
        )
    place = torch.arange(shape.length)
    ids[:, 0] = CLS
    ids[place == lengths - 1] = SEP
    attention_mask = place < lengths
    return ids.masked_fill(~attention_mask, PAD), attention_mask.long()


def token_kinds(vocab: int) -> Tensor:
    """uint8 [V]: specials, then words, of which every sixth continues one (as in cased English text)."""
    kinds = (torch.arange(vocab) % 6 != 0).to(torch.uint8)
    kinds[:FIRST_WORD] = 2
    return kinds


def make_tokenizer(vocab: int) -> Any:
    """A WordPiece tokenizer of transformers with the special ids and the kinds of this file."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    names = {"pad_token": PAD, "cls_token": CLS, "sep_token": SEP, "mask_token": MASK}
    specials = {name: f"[{name.removesuffix('_token').upper()}]" for name in names}
    vocabulary = {specials[name]: id for name, id in names.items()}
    kinds = token_kinds(vocab).tolist()
    vocabulary |= {("w" if kinds[id] else "##w") + str(id): id for id in range(FIRST_WORD, vocab)}
    model = models.WordPiece(vocabulary, unk_token=f"w{FIRST_WORD}")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **specials)
