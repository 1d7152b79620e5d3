# SPDX-License-Identifier: Apache-2.0
"""The best ways to fill a whole span, from guesses for each of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush


def best_sums(scores: Sequence[Sequence[float]], count: int) -> list[tuple[float, tuple[int, ...]]]:
    """The `count` largest sums of one score a token, largest first, each with the places of its scores.

    Exact, without looking at all combinations: the best continuations of a span's first tokens are among those of the
    best `count` ways to fill these, and are taken from a heap in their order.

    Args:
        scores: for each token, largest first. A token without any leaves no sum.
    """
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for of_token in scores:
        best = _largest_pairs(best, of_token, count)
    return best


def _largest_pairs(
    before: Sequence[tuple[float, tuple[int, ...]]], scores: Sequence[float], count: int
) -> list[tuple[float, tuple[int, ...]]]:
    """The same of an element of `before` and a score, both largest first."""
    found: list[tuple[float, tuple[int, ...]]] = []
    heap: list[tuple[float, int, int]] = []

    def reach(i: int, j: int) -> None:
        if i < len(before) and j < len(scores):
            heappush(heap, (-(before[i][0] + scores[j]), i, j))

    reach(0, 0)
    while heap and len(found) < count:
        negative, i, j = heappop(heap)
        found.append((-negative, (*before[i][1], j)))
        reach(i, j + 1)  # every pair is reached from one that is no smaller, and once
        if j == 0:
            reach(i + 1, 0)
    return found
