# SPDX-License-Identifier: Apache-2.0
"""Whether a tokenizer takes the capitals away that its vocabulary has: BERT's own vocabulary file does not say."""

from __future__ import annotations

import re
from collections.abc import Mapping

from transformers import BertTokenizerFast, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config

_MANY = 0.05  # of a vocabulary; an uncased one has none but words that were added to it


def lowers_text(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a fast tokenizer makes lower case of all text."""
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return normalizer is not None and normalizer.normalize_str("A") == "a"


def cased_share(vocabulary: Mapping[str, int]) -> float:
    """The share of a vocabulary's pieces that have a capital letter; those in brackets ([CLS], [unused1]) are no pieces
    of text."""
    pieces = [token for token in vocabulary if not re.fullmatch(r"\[.+\]", token)]
    return sum(token != token.lower() for token in pieces) / max(1, len(pieces))


def is_cased(vocabulary: Mapping[str, int]) -> bool:
    """Whether it was made of text with capital letters."""
    return cased_share(vocabulary) > _MANY


def lowers_for_want_of_settings(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a BERT's tokenizer that was loaded takes the capitals away that its vocabulary has, because its settings
    do not say that they stay: transformers then lowers all text."""
    return (
        isinstance(tokenizer, BertTokenizerFast)
        and lowers_text(tokenizer)
        and is_cased(tokenizer.get_vocab())
        and get_tokenizer_config(tokenizer.name_or_path).get("do_lower_case") is None
    )
