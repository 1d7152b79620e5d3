# SPDX-License-Identifier: Apache-2.0
"""Documents cut into pieces that a row has room for, at the ends of their sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spanbert_ext.evaluate.data.conll import CorefDocument

_ANYWHERE, _AFTER_A_STOP, _AFTER_A_SENTENCE = 0, 1, 2
_STOPS = (".", "!", "?")


def breaks_of(document: CorefDocument) -> np.ndarray:
    """[W] how good a place to cut the end of each word is: best where the document ends a sentence, then behind a full
    stop, which is all that is known of a document without sentences."""
    words = document.words
    found = np.array([_AFTER_A_STOP if word in _STOPS else _ANYWHERE for word in words])
    if len(document.sentences) > 1:
        ends = np.cumsum([len(sentence) for sentence in document.sentences]) - 1
        found[ends] = _AFTER_A_SENTENCE
    return found


def cut(sizes: Sequence[int], breaks: np.ndarray, room: int) -> list[tuple[int, int]]:
    """Ranges of words (end excluded), together all of them, each of at most `room`, or of one word that is larger. A
    range ends at the best place that it reaches, of equal ones at the last."""
    ends = np.concatenate([[0], np.cumsum(sizes)])
    ranges, start = [], 0
    while start < len(sizes):
        limit = int(np.searchsorted(ends, ends[start] + room, side="right")) - 1
        limit = max(limit, start + 1)
        stop = limit
        if limit < len(sizes):
            reached = breaks[start:limit]
            stop = start + int(np.flatnonzero(reached == reached.max())[-1]) + 1
        ranges.append((start, stop))
        start = stop
    return ranges
