# SPDX-License-Identifier: Apache-2.0
"""SpanBERT's masking as the paper states it (2.1) and as its time wrote it: a NumPy and Python loop a row.

For comparison with the operator in speed and in what it does. Written for this benchmark after the paper.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

SPECIAL, STARTS = 2, 1
IGNORED = -100


class PublishedBatch(NamedTuple):
    """spans: the longest row's number of spans; others are padded."""

    input_ids: np.ndarray  # [B, L] after replacement
    labels: np.ndarray  # [B, L] int64, original ids at masked positions, IGNORED elsewhere
    pairs: np.ndarray  # [B, spans, 2] the positions before and after a span, 0 in the padding
    pair_targets: np.ndarray  # [B, spans, S] a span's original ids, IGNORED in the padding


class PublishedSpanMasker:
    """Masks spans of whole words until a share of a row's tokens is masked.

    A span has a geometric number of words, up to `max_words` (the distribution cut there and normalised). It
    begins with the word of a random token, drawn again while that token is masked. The last span is cut where
    the budget is met. Spans that overlap or touch are merged; each becomes [MASK], random ids or stays.

    Args:
        kinds: uint8 [V], 0 continues a word, 1 starts one, 2 is special.
        mask_token_id: the id of [MASK].
        random_ids: int64 [R], ids for random replacement.
        seed: of NumPy's generator.
        position_slots: S, targets of a span beyond this many are left out.
    """

    def __init__(
        self,
        kinds: np.ndarray,
        mask_token_id: int,
        random_ids: np.ndarray,
        seed: int,
        ratio: float = 0.15,
        p: float = 0.2,
        max_words: int = 10,
        position_slots: int = 20,
    ) -> None:
        self.kinds = kinds
        self.mask_token_id = mask_token_id
        self.random_ids = random_ids
        self.ratio = ratio
        self.position_slots = position_slots
        self.random = np.random.default_rng(seed)
        shares = p * (1 - p) ** np.arange(max_words)
        self.length_cdf = np.cumsum(shares / shares.sum())
        self.length_cdf[-1] = 1

    def __call__(self, input_ids: np.ndarray) -> PublishedBatch:
        """Masks int64 ids [B, L]; the input is not changed."""
        rows = [self.choose_spans(row) for row in input_ids]
        B, spans = len(rows), max(map(len, rows), default=0)
        batch = PublishedBatch(
            input_ids.copy(),
            np.full(input_ids.shape, IGNORED),
            np.zeros((B, spans, 2), np.int64),
            np.full((B, spans, self.position_slots), IGNORED),
        )
        for b, row in enumerate(rows):
            for s, (begin, end) in enumerate(row):
                original = input_ids[b, begin:end]
                batch.labels[b, begin:end] = original
                batch.pairs[b, s] = begin - 1, end
                kept = original[: self.position_slots]
                batch.pair_targets[b, s, : len(kept)] = kept
                draw = self.random.random()
                if draw < 0.8:
                    batch.input_ids[b, begin:end] = self.mask_token_id
                elif draw < 0.9:
                    batch.input_ids[b, begin:end] = self.random.choice(self.random_ids, end - begin)
        return batch

    def choose_spans(self, ids: np.ndarray) -> list[tuple[int, int]]:
        """The masked spans of one row [L], half-open, from left to right."""
        kinds = self.kinds[ids]
        text = kinds != SPECIAL
        after_text = np.concatenate([[False], text[:-1]])
        starts = text & ((kinds == STARTS) | ~after_text)
        word_of = (np.cumsum(starts) - 1).tolist()  # by position
        begins = np.flatnonzero(starts)
        stops = np.append(np.flatnonzero(starts | ~text), len(ids))
        ends = stops[np.searchsorted(stops, begins, side="right")].tolist()
        begins = begins.tolist()

        tokens = np.flatnonzero(text).tolist()
        budget = math.ceil(self.ratio * len(tokens))
        masked: set[int] = set()
        spans = []
        while len(masked) < budget:
            anchor = tokens[self.random.integers(len(tokens))]
            if anchor in masked:
                continue
            words = 1 + int(np.searchsorted(self.length_cdf, self.random.random(), side="right"))
            first = last = word_of[anchor]
            while last + 1 < min(first + words, len(begins)) and ends[last] == begins[last + 1]:
                last += 1  # up to the next special token
            begin = end = begins[first]
            while end < ends[last] and len(masked) < budget:
                masked.add(end)
                end += 1
            spans.append((begin, end))
        return merge(spans)


def merge(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Half-open intervals in order, those that overlap or touch made one."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged
