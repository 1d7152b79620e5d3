# SPDX-License-Identifier: Apache-2.0
"""Which tokens of a vocabulary, or of a row, start a word, continue one, or are special."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from spanbert_ext.masking.checks import integer_tensor
from spanbert_ext.masking.word_marks import BYTE_LEVEL_SPACE, WordMark, word_mark
from spanbert_ext.ops._common import shown

CONTINUES, STARTS, SPECIAL = 0, 1, 2

_SPECIAL_ROLES = ("cls", "sep", "bos", "eos", "pad", "mask")
_UNUSED = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+")
BYTE_FALLBACK = re.compile(r"<0x[0-9A-F]{2}>")


class VocabularyKinds(NamedTuple):
    kinds: Tensor  # uint8 [V] by id
    random_ids: Tensor  # int64 [R], ids that may replace a token: neither special nor unused


def vocabulary_kinds(
    tokenizer: Any, *, marked: bool = True, mask_additional_tokens: bool = False
) -> VocabularyKinds:
    """The kind of every id of a transformers tokenizer, by the marks of its vocabulary.

    Special are the cls, sep, bos, eos, pad and mask tokens and all others that the tokenizer calls special, such as
    `extra_special_tokens`; the unknown token is an ordinary word. `##` (WordPiece) continues a word; `Ġ` (byte-level
    BPE) and `▁` (SentencePiece) start one, and so do tokens of punctuation or white space alone and added tokens;
    byte-fallback tokens continue one. `word_mark` finds which rule is the tokenizer's.

    Args:
        marked: False: every ordinary token starts a word, whatever its text; for rows that bring their own kinds.
        mask_additional_tokens: special are the six roles alone; every other added token is a word.

    Raises:
        ValueError: the vocabulary holds nothing but special tokens, marks the ends of words instead of their
            starts, or marks neither.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    special = _special_ids(tokenizer, mask_additional_tokens)
    always_start = {*tokenizer.get_added_vocab().values(), getattr(tokenizer, "unk_token_id", None)}
    ordinary = [token for token, id in vocabulary.items() if id not in special | always_start]
    if not ordinary:
        raise ValueError(
            f"the tokenizer has {len(vocabulary)} tokens, special ones alone: {sorted(vocabulary)}. Was its "
            "file read? In transformers 5 the argument of BertTokenizerFast is vocab=, not vocab_file="
        )
    mark = word_mark(tokenizer, ordinary) if marked else WordMark("", True)

    kinds = [SPECIAL] * max(len(tokenizer), max(vocabulary.values()) + 1)  # ids without a token stay special
    for token, id in vocabulary.items():
        if id not in special:
            kinds[id] = STARTS if id in always_start else _kind(token, mark)
    pool = [id for token, id in vocabulary.items() if id not in special and not _UNUSED.fullmatch(token)]
    return VocabularyKinds(
        torch.tensor(kinds, dtype=torch.uint8), torch.tensor(sorted(pool), dtype=torch.int64)
    )


def _special_ids(tokenizer: Any, mask_additional_tokens: bool) -> set[int]:
    roles = {getattr(tokenizer, f"{role}_token_id", None) for role in _SPECIAL_ROLES} - {None}
    if mask_additional_tokens:
        return roles
    added = getattr(tokenizer, "added_tokens_decoder", {})
    others = {id for id, token in added.items() if token.special} | {
        *getattr(tokenizer, "all_special_ids", ())
    }
    return roles | (others - {getattr(tokenizer, "unk_token_id", None)})


def token_kinds_from_word_ids(word_ids: Sequence[int | None]) -> np.ndarray:
    """Exact token kinds of one row from a fast tokenizer's `encoding.word_ids()`.

    Make a `token_kinds` column of them while the dataset is tokenized; the collator and the model use it
    before any rule about prefixes. Rows that are joined and cut again may join theirs too: a word begins wherever the
    number changes. Where texts meet without a special token between them, and the numbers left and right are the same
    (a text of one word, before another text), their two words are taken for one.

    Args:
        word_ids: for each of the `L` tokens the number of its word; None, or a negative number, for a special token.
            Arrays and tensors may be of floats with NaN for None: so they come from a dataset in the format "torch"
            or "numpy".

    Returns:
        uint8 `[L]`: 0 continues a word, 1 starts one, 2 special.

    Raises:
        TypeError: an element is neither an integer nor None; a fraction.
        ValueError: an element has elements, or is beyond int64.
    """
    expected = "integers and None"
    if getattr(getattr(word_ids, "dtype", None), "kind", "") == "f" or (
        isinstance(word_ids, Tensor) and word_ids.is_floating_point()
    ):  # float32, which holds every integer up to 2^24
        numbers = np.asarray(word_ids)
        absent = np.isnan(numbers)
        if not (absent | (numbers == np.floor(numbers))).all() or np.isinf(numbers).any():
            raise TypeError(f"word_ids is {shown(word_ids)} with fractions; expected {expected}")
        word_ids = np.where(absent, -1, numbers).astype(np.int64)
    try:
        words = (
            word_ids
            if isinstance(word_ids, (Tensor, np.ndarray))
            else [-1 if word is None else word for word in word_ids]
        )
    except TypeError:
        raise TypeError(f"word_ids is {shown(word_ids)}; expected a sequence of integers and None") from None
    words = integer_tensor("word_ids", words, expected=expected).numpy()  # [L]
    if words.ndim != 1:
        raise ValueError(f"word_ids has shape {list(words.shape)}; expected one number a token")
    starts = np.diff(words, prepend=-1) != 0
    return np.where(words < 0, 2, starts).astype(np.uint8)


def word_kinds_of_rows(rows: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """Token kinds `[L]` of each row, from its column `word_ids` or the fast encoding that it still holds.

    Raises:
        TypeError, ValueError: naming the first example that has neither, or whose word ids are wrong.
    """
    return [_word_kinds(index, row) for index, row in enumerate(rows)]


def _word_kinds(index: int, row: Any) -> np.ndarray:
    if "word_ids" in row:
        word_ids = row["word_ids"]
    elif getattr(row, "is_fast", False):  # a BatchEncoding that still holds the tokenizer's own encoding
        word_ids = row.word_ids()
    else:
        raise ValueError(
            f"kinds='words': example {index} has neither 'token_kinds' nor 'word_ids' and is no fast encoding; "
            f"its columns are {sorted(row)} (Trainer drops those that the model does not take, as 'word_ids', unless "
            "remove_unused_columns=False). Make a column 'token_kinds' with "
            "token_kinds_from_word_ids(encoding.word_ids()), or with token_kinds_from_words(offsets, words)"
        )
    try:
        kinds = token_kinds_from_word_ids(word_ids)
    except (TypeError, ValueError) as error:
        raise type(error)(f"example {index}: {error}") from None
    ids = row["input_ids"]
    if hasattr(ids, "__len__") and getattr(ids, "ndim", 1) == 1 and len(kinds) != len(ids):
        raise ValueError(f"example {index}: word_ids has {len(kinds)} entries for {len(ids)} input_ids")
    return kinds


def token_kinds_from_words(offsets: Any, words: Any) -> np.ndarray:
    """Token kinds of one row from words that something else found in its text: for languages without spaces.

        encoding = tokenizer(text, return_offsets_mapping=True)
        words = [(start, end) for _, start, end in jieba.tokenize(text)]  # any segmenter
        token_kinds_from_words(encoding["offset_mapping"], words)

    A token belongs to the first word that it shares a character with, and starts it unless the token before belongs to
    it too. A token outside all words starts one of its own.

    Args:
        offsets: `[L, 2]`, for each token its half-open range of characters; an empty range is a special token.
        words: `[W, 2]`, half-open ranges of characters, in the order of the text, none in another.

    Returns:
        uint8 `[L]`: 0 continues a word, 1 starts one, 2 special.

    Raises:
        TypeError: no integers.
        ValueError: other shapes; a word that is empty, or begins before the end of the one before.
    """
    token_start, token_end = _ranges("offsets", offsets).T  # [L]
    word_start, word_end = _ranges("words", words).T  # [W]
    wrong = np.flatnonzero((word_end <= word_start) | (word_start < np.concatenate([[0], word_end[:-1]])))
    if wrong.size:
        found = [int(word_start[wrong[0]]), int(word_end[wrong[0]])]
        raise ValueError(
            f"words[{wrong[0]}] is {found}; expected a range that begins behind the word before it"
        )
    word = np.searchsorted(
        word_end, token_start, side="right"
    )  # [L] the first one that ends behind the token's start
    inside = np.append(word_start, np.iinfo(np.int64).max)[word] < token_end
    kinds = np.ones(len(token_start), dtype=np.uint8)
    kinds[1:][inside[1:] & inside[:-1] & (word[1:] == word[:-1])] = CONTINUES
    kinds[token_end <= token_start] = SPECIAL
    return kinds


def _ranges(name: str, values: Any) -> np.ndarray:
    """int64 `[N, 2]`."""
    expected = "ranges [[start, end], ...] of integers"
    ranges = integer_tensor(name, values, expected=expected).numpy()
    if ranges.size == 0:
        return ranges.reshape(0, 2)
    if ranges.ndim != 2 or ranges.shape[1] != 2:
        raise ValueError(f"{name} has shape {list(ranges.shape)}; expected {expected}")
    return ranges


def _kind(token: str, mark: WordMark) -> int:
    if not mark.text:
        return STARTS
    if not mark.starts:
        return CONTINUES if token.startswith(mark.text) and token != mark.text else STARTS
    if BYTE_FALLBACK.fullmatch(token):
        return CONTINUES
    text = byte_level_text(token) if mark.text == BYTE_LEVEL_SPACE else token.replace(mark.text, " ")
    if text is None:  # a part of a character
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


def byte_level_bytes(token: str) -> bytes | None:
    """The bytes of a byte-level token; None of one that is written in other characters."""
    if any(character not in _BYTE_OF for character in token):
        return None
    return bytes(_BYTE_OF[character] for character in token)


def byte_level_text(token: str) -> str | None:
    """The text of a byte-level token; None when it begins inside a character or is a part of one."""
    data = byte_level_bytes(token)
    if data is None:
        return token
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode(errors="replace") if data[:1].isspace() else None
