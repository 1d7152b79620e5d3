# SPDX-License-Identifier: Apache-2.0
"""Which tokens may fill a span, and how people read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from spanbert_ext.masking.show import TokenTexts, token_texts
from spanbert_ext.masking.word_kinds import CONTINUES, SPECIAL, vocabulary_kinds
from spanbert_ext.ops._common import shown


class Vocabulary:
    """What filling a span needs to know of a tokenizer.

    Attributes:
        special: the ids that are never a boundary, nor by default a guess.
        words: [C] ids of ordinary tokens: neither special, nor unused (`[unused7]`), nor the unknown token.

    Raises:
        TypeError: `tokenizer` is none.
        ValueError: it has no mask token, or special tokens alone.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not hasattr(tokenizer, "get_vocab"):
            raise TypeError(f"tokenizer is {shown(tokenizer)}; expected a transformers tokenizer")
        if getattr(tokenizer, "mask_token_id", None) is None:
            raise ValueError(
                f"{type(tokenizer).__name__} has no mask token, which stands for what is to be filled in"
            )
        self.tokenizer = tokenizer
        kinds, words = vocabulary_kinds(tokenizer, marked=False)
        self.special = set(np.flatnonzero(kinds.numpy() == SPECIAL).tolist())
        self.words = [id for id in words.tolist() if id != getattr(tokenizer, "unk_token_id", None)]
        self._texts: TokenTexts = token_texts(tokenizer)

    def ids(self, allowed: str | Iterable[int | str] | None, size: int) -> list[int] | None:
        """The guesses' ids in ascending order; None: all that the model has.

        Args:
            allowed: None: `words`; "all": every id; else ids or tokens of the vocabulary.
            size: V of the model.

        Raises:
            TypeError, ValueError: naming what is no token of the vocabulary.
        """
        if allowed == "all":
            return None
        if allowed is None:
            return [id for id in self.words if id < size]
        if isinstance(allowed, (str, bytes)) or not isinstance(allowed, Iterable):
            raise TypeError(f"allowed is {shown(allowed)}; expected 'all', None, or a list of ids and tokens")
        vocabulary, found = self.tokenizer.get_vocab(), set()
        for token in allowed:
            id = vocabulary.get(token) if isinstance(token, str) else token
            if isinstance(id, bool) or not isinstance(id, (int, np.integer)) or not 0 <= id < size:
                raise ValueError(
                    f"allowed has {token!r}; expected a token of the vocabulary, as 'the' or '##ing', or an id below "
                    f"{size}"
                )
            found.add(int(id))
        if not found:
            raise ValueError("allowed is empty; expected at least one token")
        return sorted(found)

    def continues(self, id: int, inside: bool) -> bool:
        """Whether a token continues the word before it; `inside`: whether an ordinary token stands there."""
        kinds = self._texts.kinds
        return inside and kinds is not None and id < len(kinds) and bool(kinds[id] == CONTINUES)

    def token(self, id: int) -> str:
        """As the vocabulary has it; `<47>` of an id that it has not."""
        return self._texts.token(id)

    def label(self, id: int, inside: bool) -> str:
        """One token as people read it, `·` before what continues a word; `inside` as above."""
        return "·" * self.continues(id, inside) + self._texts.piece(id)

    def text(self, ids: Sequence[int], inside: bool) -> str:
        """Tokens as words, `·` before the first where it continues the word before them; `inside` as above."""
        kinds = self._texts.kinds
        if kinds is None:
            return " ".join(self.tokenizer.decode(list(ids)).split())
        known = np.array([kinds[id] if id < len(kinds) else SPECIAL for id in ids])
        return "·" * self.continues(ids[0], inside) + self._texts.text(np.asarray(ids), known)
