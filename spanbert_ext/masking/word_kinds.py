"""Which tokens of a vocabulary start a word, continue one, or are special."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spanbert_ext.masking.checks import integer_tensor, shown

CONTINUES, STARTS, SPECIAL = 0, 1, 2

BYTE_LEVEL_SPACE, SENTENCEPIECE_SPACE = "Ġ", "▁"
_SUFFIX_MARKS = ("</w>", "@@")
_SPECIAL_ROLES = ("cls", "sep", "bos", "eos", "pad", "mask")
_UNUSED = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+")
_BYTE_FALLBACK = re.compile(r"<0x[0-9A-F]{2}>")


class VocabularyKinds(NamedTuple):
    kinds: Tensor  # uint8 [V] by id
    random_ids: Tensor  # int64 [R], ids that may replace a token: neither special nor unused


def vocabulary_kinds(tokenizer: Any) -> VocabularyKinds:
    """The kind of every id of a transformers tokenizer, by the marks of its vocabulary.

    Special are the cls, sep, bos, eos, pad and mask tokens; the unknown token is an ordinary word. `##`
    (WordPiece) continues a word; `Ġ` (byte-level BPE) and `▁` (SentencePiece) start one, and so do tokens of
    punctuation or white space alone and added tokens; byte-fallback tokens continue one.

    Raises:
        ValueError: the vocabulary holds nothing but special tokens, marks the ends of words instead of their
            starts, or marks neither.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    special = {getattr(tokenizer, f"{role}_token_id", None) for role in _SPECIAL_ROLES} - {None}
    always_start = {*tokenizer.get_added_vocab().values(), getattr(tokenizer, "unk_token_id", None)}
    ordinary = [token for token, id in vocabulary.items() if id not in special | always_start]
    if not ordinary:
        raise ValueError(
            f"the tokenizer has {len(vocabulary)} tokens, special ones alone: {sorted(vocabulary)}. Was its "
            "file read? In transformers 5 the argument of BertTokenizerFast is vocab=, not vocab_file="
        )
    mark = _word_mark(tokenizer, ordinary)

    kinds = [SPECIAL] * max(len(tokenizer), max(vocabulary.values()) + 1)  # ids without a token stay special
    for token, id in vocabulary.items():
        if id not in special:
            kinds[id] = STARTS if id in always_start else _kind(token, mark)
    pool = [id for token, id in vocabulary.items() if id not in special and not _UNUSED.fullmatch(token)]
    return VocabularyKinds(
        torch.tensor(kinds, dtype=torch.uint8), torch.tensor(sorted(pool), dtype=torch.int64)
    )


def token_kinds_from_word_ids(word_ids: Sequence[int | None]) -> np.ndarray:
    """Exact token kinds of one row from a fast tokenizer's `encoding.word_ids()`.

    Make a `token_kinds` column of them while the dataset is tokenized; the collator and the model use it
    before any rule about prefixes.

    Args:
        word_ids: for each of the `L` tokens the number of its word; None, or a negative number, for a special token.

    Returns:
        uint8 `[L]`: 0 continues a word, 1 starts one, 2 special.

    Raises:
        TypeError: an element is neither an integer nor None.
        ValueError: an element has elements, or is beyond int64.
    """
    try:
        words = [-1 if word is None else word for word in word_ids]
    except TypeError:
        raise TypeError(f"word_ids is {shown(word_ids)}; expected a sequence of integers and None") from None
    words = integer_tensor("word_ids", words, expected="integers and None").numpy()  # [L]
    if words.ndim != 1:
        raise ValueError(f"word_ids has shape {list(words.shape)}; expected one number a token")
    starts = np.diff(words, prepend=-1) != 0
    return np.where(words < 0, 2, starts).astype(np.uint8)


def _word_mark(tokenizer: Any, tokens: list[str]) -> str:
    """The prefix that marks word starts or continuations; empty: every token is a word."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if type(model).__name__ == "WordLevel":
        return ""
    prefix = getattr(model, "continuing_subword_prefix", None)
    if prefix:
        return prefix
    counts = {
        mark: sum(token.startswith(mark) for token in tokens)
        for mark in ("##", BYTE_LEVEL_SPACE, SENTENCEPIECE_SPACE)
    }
    for mark in _SUFFIX_MARKS:
        counts[mark] = sum(token.endswith(mark) and token != mark for token in tokens)
    if getattr(model, "end_of_word_suffix", None):
        counts[model.end_of_word_suffix] = len(tokens)
    mark, count = max(counts.items(), key=lambda item: item[1])
    if count == 0:
        raise ValueError(
            "cannot tell where words start: no token of the vocabulary begins with "
            f"{', '.join(list(counts)[:3])}. Give SpanMasker a table `kinds` of your own"
        )
    if mark not in ("##", BYTE_LEVEL_SPACE, SENTENCEPIECE_SPACE):
        raise ValueError(
            f"the tokenizer marks the ends of words ({mark!r}): a token's kind depends on the token before "
            "it and no table by id exists. Build SpanMasker(...) itself and call it with token_kinds"
        )
    return mark


def _kind(token: str, mark: str) -> int:
    if mark == BYTE_LEVEL_SPACE:
        return _kind_by_text(_byte_level_text(token))
    if mark == SENTENCEPIECE_SPACE:
        if _BYTE_FALLBACK.fullmatch(token):
            return CONTINUES
        return _kind_by_text(token.replace(SENTENCEPIECE_SPACE, " "))
    return CONTINUES if mark and token.startswith(mark) and token != mark else STARTS


def _kind_by_text(text: str | None) -> int:
    """The kind of a token whose vocabulary keeps spaces; None: a part of a character."""
    if text is None:
        return CONTINUES
    return STARTS if text[:1].isspace() or _is_punctuation(text) else CONTINUES


def _is_punctuation(characters: Iterable[str]) -> bool:
    return all(unicodedata.category(character)[0] in "PS" for character in characters)


def _byte_level_characters() -> dict[str, int]:
    """Byte-level BPE writes printable bytes as themselves, the others as characters from 256 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_level_characters()


def _byte_level_text(token: str) -> str | None:
    """The text of a byte-level token; None when it begins inside a character or is a part of one."""
    if any(character not in _BYTE_OF for character in token):
        return token
    data = bytes(_BYTE_OF[character] for character in token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode(errors="replace") if data[:1].isspace() else None
