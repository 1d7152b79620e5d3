# SPDX-License-Identifier: Apache-2.0
"""How a tokenizer marks words in its tokens: read from what it does with a text, never from a stray character."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

BYTE_LEVEL_SPACE, SENTENCEPIECE_SPACE = "Ġ", "▁"
_CONTINUING = ("##",)
_STARTING = (BYTE_LEVEL_SPACE, SENTENCEPIECE_SPACE)
_ENDING = ("</w>", "@@")
_ENOUGH = 0.05  # share of the vocabulary that has a mark, where nothing else tells; strays are below 1 %
_PROBE = ("ab", "cd", "ef")


class WordMark(NamedTuple):
    """`text` begins the tokens that start a word (`starts`) or those that continue one; empty: each token is a word."""

    text: str
    starts: bool


def word_mark(tokenizer: Any, tokens: Sequence[str]) -> WordMark:
    """The mark of a transformers tokenizer.

    The model says it (WordPiece and some BPE have a `continuing_subword_prefix`), or what the normalizer and the
    pre-tokenizer make of the space between two words. Where neither can be asked, as of tokenizers written in Python,
    a mark counts that at least 5 % of the vocabulary have.

    Args:
        tokenizer: fast or slow.
        tokens: its vocabulary without special and added tokens.

    Raises:
        ValueError: the ends of words are marked, or nothing is.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        if hasattr(tokenizer, "sp_model"):
            return WordMark(SENTENCEPIECE_SPACE, True)
        return _by_shares(tokenizer, tokens)
    model = backend.model
    if getattr(model, "end_of_word_suffix", None):
        raise _marks_ends(tokenizer, model.end_of_word_suffix)
    if getattr(model, "continuing_subword_prefix", None):
        return WordMark(model.continuing_subword_prefix, False)
    try:
        pieces = _pieces(backend, " ".join(_PROBE))
    except Exception:  # a part of the pipeline that is written in Python may raise anything
        return _by_shares(tokenizer, tokens)
    mark, ends = _mark_between(pieces)
    starting = sum(token.startswith(mark) for token in tokens) if mark else 0
    if starting and ends is None:  # words are not cut apart before the model: its tokens show where spaces go
        across = sum(mark in token.lstrip(mark) for token in tokens)
        if across > starting:
            raise _unmarked(
                tokenizer,
                f"{across} tokens have {mark!r} inside or at their end, {starting} begin with it",
                False,
            )
    if starting and not ends:
        return WordMark(mark, True)
    if type(model).__name__ == "WordLevel":
        return WordMark("", True)
    if mark and ends:
        raise _marks_ends(tokenizer, mark)
    suffix = _largest(tokens, _ENDING, str.endswith)
    if type(backend.decoder).__name__ == "BPEDecoder" or suffix:
        raise _marks_ends(tokenizer, suffix or backend.decoder.suffix)
    name, first = type(model).__name__, type(backend.pre_tokenizer).__name__
    kept = f"no token of its {name} vocabulary begins with {mark!r}" if mark else ""
    gone = f"{first} takes the spaces away, and the {name} model has no prefix for what continues a word"
    raise _unmarked(tokenizer, kept or gone, len(pieces) > 1)


def _pieces(backend: Any, text: str) -> list[str]:
    """A text as the pre-tokenizer hands it to the model."""
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    if backend.pre_tokenizer is None:
        return [text]
    return [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]


def _mark_between(pieces: list[str]) -> tuple[str, bool | None]:
    """What stands between the words of the probe; whether it ends the piece before (None: no piece ends there)."""
    text = "".join(pieces)
    found = re.search("(.*)".join(_PROBE), text)
    if found is None or found[1] != found[2]:
        return "", None
    begin, end = found.span(1)
    edges = {0}
    for piece in pieces:
        edges.add(max(edges) + len(piece))
    return found[1], False if begin in edges else True if end in edges else None


def _by_shares(tokenizer: Any, tokens: Sequence[str]) -> WordMark:
    prefix = _largest(tokens, (*_CONTINUING, *_STARTING), str.startswith)
    suffix = _largest(tokens, _ENDING, str.endswith)
    if suffix and (
        not prefix or _count(tokens, suffix, str.endswith) > _count(tokens, prefix, str.startswith)
    ):
        raise _marks_ends(tokenizer, suffix)
    if not prefix:
        marks = ", ".join((*_CONTINUING, *_STARTING))
        raise _unmarked(tokenizer, f"fewer than {_ENOUGH:.0%} of the tokens begin with {marks}")
    return WordMark(prefix, prefix in _STARTING)


def _count(tokens: Sequence[str], mark: str, has: Any) -> int:
    return sum(has(token, mark) and token != mark for token in tokens)


def _largest(tokens: Sequence[str], marks: Sequence[str], has: Any) -> str:
    """The mark that most tokens have, if they are enough; else an empty string."""
    mark = max(marks, key=lambda mark: _count(tokens, mark, has))
    return mark if _count(tokens, mark, has) >= max(1, _ENOUGH * len(tokens)) else ""


def _remedy(word_ids: bool) -> str:
    """`word_ids`: whether the tokenizer knows the words itself."""
    own = "token_kinds_from_words makes them), or SpanMasker a table `kinds` of your own"
    if not word_ids:
        return f"Give each row token_kinds ({own}"
    return (
        "DataCollatorForSpanMasking(tokenizer, kinds='words') takes the words from the tokenizer's word_ids. "
        f"Or give each row token_kinds ({own}"
    )


def _marks_ends(tokenizer: Any, mark: str) -> ValueError:
    return ValueError(
        f"the tokenizer marks the ends of words ({mark!r}): a token's kind depends on the token before it and no "
        f"table by id exists. {_remedy(getattr(tokenizer, 'is_fast', False))}"
    )


def _unmarked(tokenizer: Any, why: str, cut: bool = True) -> ValueError:
    """`cut`: whether the pre-tokenizer cuts words apart."""
    word_ids = cut and getattr(tokenizer, "is_fast", False)
    return ValueError(f"cannot tell where words start: {why}. {_remedy(word_ids)}")
