# SPDX-License-Identifier: Apache-2.0
"""Spans of a text as tokens, and which tokens a row keeps where it has no room for all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def token_span(offsets: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """First and last of the tokens that characters `start` to `end` (excluded) touch; None where there is none, as of
    a span of control characters. offsets [T, 2]: the characters of every token of a text."""
    touched = np.flatnonzero(
        (offsets[:, 1] > start) & (offsets[:, 0] < end) & (offsets[:, 1] > offsets[:, 0])
    )
    return (int(touched[0]), int(touched[-1])) if len(touched) else None


def word_tokens(offsets: np.ndarray, words: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """First token and number of tokens [W] of words, which follow each other in the text; a token belongs to the first
    word that it touches. A word may have none."""
    begins = np.array([begin for begin, _ in words])
    ends = np.array([end for _, end in words])
    places = np.flatnonzero(offsets[:, 1] > offsets[:, 0])
    word = np.searchsorted(ends, offsets[places, 0], side="right")
    inside = word < len(words)
    places, word = places[inside], word[inside]
    touches = offsets[places, 1] > begins[word]
    places, word = places[touches], word[touches]
    first = np.zeros(len(words), dtype=np.int64)
    count = np.bincount(word, minlength=len(words))
    own, where = np.unique(word, return_index=True)
    first[own] = places[where]
    return first, count


def kept_tokens(count: int, needed: Sequence[int], room: int) -> np.ndarray:
    """Which of `count` tokens a row of `room` keeps, ascending: those between the outermost that are needed where they
    have room, and beside them as many on the left as on the right; else the nearest to those that are needed."""
    if count <= room:
        return np.arange(count)
    places = np.arange(count)
    marks = np.sort(np.asarray(needed))
    if len(marks) == 0:
        return places[:room]
    right = np.searchsorted(marks, places).clip(max=len(marks) - 1)
    left = (np.searchsorted(marks, places, side="right") - 1).clip(min=0)
    distance = np.minimum(abs(places - marks[right]), abs(places - marks[left]))
    if marks[-1] - marks[0] + 1 <= room:
        distance[marks[0] : marks[-1] + 1] = 0
    return np.sort(np.argsort(distance, kind="stable")[:room])
