# SPDX-License-Identifier: Apache-2.0
"""Sentence pairs of next-sentence prediction, by the two published algorithms, drawn from counters.

A pair is two token ranges: A begins where a chunk of whole sentences does, B is the rest of the chunk, or begins at a
sentence of a random document. The draws of a document are Philox at (seed, copy, digest of its text): they depend on
no other document, worker or run.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from spanbert_ext.pretrain.rows.token_documents import TokenDocuments

# A pair: tokens [start, end) of a document, then [next_start, next_end) of a document (the same one unless
# `is_random`, or where there is no other); the `number`-th pair of the document in its `copy`-th pass.
PAIR = np.dtype(
    [
        *(("document", "i4"), ("start", "i4"), ("end", "i4")),
        *(("other", "i4"), ("next_start", "i4"), ("next_end", "i4")),
        *(("is_random", "i4"), ("number", "i4"), ("copy", "i4")),
    ]
)
SPECIAL = 3  # [CLS] and two [SEP]
TRIES = 10  # to find another document
_STRETCH = 4096  # documents whose pairs are kept in memory

PairRule = Literal["google", "spanbert"]


class Draws:
    """Integers from Philox4x64-10 at one place of its counter. No floating point takes part."""

    _BLOCK = 64  # numbers that are made at once

    def __init__(self, seed: int, copy: int, digest: int) -> None:
        counter = [0, copy, digest % 2**64, 0]  # the generator counts in the first word
        self._philox = np.random.Philox(
            key=np.array([seed % 2**64, 0], dtype=np.uint64), counter=np.array(counter, dtype=np.uint64)
        )
        self._left: list[int] = []

    def _next(self) -> int:
        if not self._left:
            self._left = self._philox.random_raw(self._BLOCK).tolist()[::-1]
        return self._left.pop()

    def below(self, count: int) -> int:
        """Uniform in [0, count)."""
        return self._next() * count >> 64

    def happens(self, share: float) -> bool:
        """True in a `share` of all draws."""
        return self._next() < round(share * 2**64)

    def heads(self, coins: int) -> int:
        """How many of so many fair coins show heads."""
        count = 0
        for first in range(0, coins, 64):
            count += (self._next() >> max(0, 64 - (coins - first))).bit_count()
        return count


def cuts(a: int, b: int, capacity: int) -> tuple[int, int]:
    """How many tokens A and B of `a` and `b` tokens lose while one of the longer is dropped (of B when they are
    equally long), until both together have at most `capacity`."""
    over = max(0, a + b - capacity)
    difference = min(over, abs(a - b))
    rest = over - difference
    return (difference if a > b else 0) + rest // 2, (difference if b > a else 0) + (rest + 1) // 2


def split_point(sentences: int, draws: Draws, rule: PairRule) -> int:
    """How many of a chunk's sentences A has: all but the last at most; by SpanBERT's code all but the last two."""
    if rule == "google":
        return 1 + draws.below(sentences - 1) if sentences >= 2 else 1
    return 1 + draws.below(sentences - 2) if sentences >= 3 else 1


def pairs_of_document(
    place: int,
    numbers: np.ndarray,
    documents: TokenDocuments,
    capacity: int,
    draws: Draws,
    rule: PairRule,
    short_rows: float,
) -> Iterator[tuple[int, int, int, int, int, int]]:
    """The pairs of document `numbers[place]`: the first six fields of `PAIR` and `is_random`, without `document`.

    Sentences are gathered until they have the target's length or the document ends. A is the first few of them. B is
    random where there is one sentence or a coin says so: sentences of another document from a random one on; what A
    left of the chunk is then gathered again. The target is `capacity`, but in a share `short_rows` of documents drawn
    between 2 and it."""
    document = int(numbers[place])
    lengths = documents.sentence_lengths[document].tolist()
    target = capacity
    if draws.happens(short_rows):
        # NumPy's upper bound, in SpanBERT's code, is exclusive
        target = 2 + draws.below(capacity - (1 if rule == "google" else 2))
    first = last = 0  # sentences of the chunk
    start = end = 0  # its tokens
    while last < len(lengths):
        end += lengths[last]
        last += 1
        if last < len(lengths) and end - start < target:
            continue
        taken = split_point(last - first, draws, rule)
        middle = start + sum(lengths[first : first + taken])
        is_random = last - first == 1 or draws.happens(0.5)
        if is_random:
            other, b_start, b_end = _elsewhere(
                place, numbers, documents, target - (middle - start), draws, rule
            )
            following = first + taken, middle
        else:
            other, b_start, b_end = document, middle, end
            following = last, end
        lost_a, lost_b = cuts(middle - start, b_end - b_start, capacity)
        front_a, front_b = draws.heads(lost_a), draws.heads(lost_b)
        yield (
            *(start + front_a, middle - (lost_a - front_a)),
            *(other, b_start + front_b, b_end - (lost_b - front_b), int(is_random)),
        )
        first, start = following
        last, end = following


def _elsewhere(
    place: int, numbers: np.ndarray, documents: TokenDocuments, length: int, draws: Draws, rule: PairRule
) -> tuple[int, int, int]:
    """A document, and in it the token range of the sentences from a random one on that have `length` tokens."""
    count = len(numbers)
    if rule == "spanbert" and count > 2:  # of two, the first would have no other
        count -= 1  # its code never draws the last one
    for _ in range(TRIES):
        other = draws.below(count)
        if other != place:
            break
    document = int(numbers[other])
    lengths = documents.sentence_lengths[document]
    sentence = draws.below(len(lengths))
    start = end = int(lengths[:sentence].sum())
    while sentence < len(lengths):
        end += int(lengths[sentence])
        sentence += 1
        if end - start >= length:
            break
    return document, start, end


def made_pairs(
    documents: TokenDocuments,
    numbers: np.ndarray,
    row_size: int,
    rule: PairRule,
    short_rows: float = 0.0,
    copies: int = 1,
    seed: int = 0,
) -> Iterator[np.ndarray]:
    """The pairs of the documents `numbers` [n], of at most `row_size` tokens with the special ones, in stretches:
    `PAIR` [N] each, in the order of passes and documents.

    rule: "google" (create_pretraining_data.py), or "spanbert", which differs in how a chunk is divided, in the lengths
    of short rows, and never draws the last document of three or more. copies: passes over the documents, each with
    pairs of its own.
    A document without tokens has no pair, and is none's B."""
    numbers = numbers[documents.sentence_lengths.lengths()[numbers] > 0]
    for copy in range(copies):
        for first in range(0, len(numbers), _STRETCH):
            fields = array("i")
            for place in range(first, min(first + _STRETCH, len(numbers))):
                document = int(numbers[place])
                draws = Draws(seed, copy, int(documents.digests[document]))
                pairs = pairs_of_document(
                    place, numbers, documents, row_size - SPECIAL, draws, rule, short_rows
                )
                for number, pair in enumerate(pairs):
                    fields.extend((document, *pair, number, copy))
            yield np.array(fields, dtype=np.int32).view(PAIR)


def build_pairs(*args: Any, **kwargs: Any) -> np.ndarray:
    """All of `made_pairs` in memory: `PAIR` [N]."""
    return np.concatenate([np.empty(0, dtype=PAIR), *made_pairs(*args, **kwargs)])
