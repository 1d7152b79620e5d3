# SPDX-License-Identifier: Apache-2.0
"""The best fillings of a span are exactly the best, by trying all."""

from __future__ import annotations

import itertools
import random

import pytest

from spanbert_ext.fill.joint import best_sums


def brute_force(scores, count):
    every = itertools.product(*(range(len(of_token)) for of_token in scores))
    sums = [
        (sum(of_token[i] for of_token, i in zip(scores, places, strict=True)), places) for places in every
    ]
    return sorted(sums, key=lambda found: (-found[0], found[1]))[:count]


@pytest.mark.parametrize("sizes", [(7,), (5, 5), (4, 1, 6), (3, 4, 2, 5), (2,) * 9])
@pytest.mark.parametrize("count", [1, 3, 40, 1000])
def test_the_best_sums_are_those_of_all_combinations(sizes, count):
    draw = random.Random(str((sizes, count)))
    scores = [sorted((draw.uniform(-9, 0) for _ in range(size)), reverse=True) for size in sizes]
    found = best_sums(scores, count)
    expected = brute_force(scores, count)
    assert [places for _, places in found] == [places for _, places in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected])


def test_equal_scores_give_every_combination_once():
    found = best_sums([[-1.0, -1.0, -2.0], [-1.0, -1.0]], 100)
    assert sorted(places for _, places in found) == list(itertools.product(range(3), range(2)))
    assert [value for value, _ in found] == sorted((value for value, _ in found), reverse=True)


def test_only_a_few_pairs_are_looked_at():
    class Counted(list):
        looked_at = 0

        def __getitem__(self, index):
            Counted.looked_at += 1
            return super().__getitem__(index)

    scores = [Counted(-0.001 * i for i in range(2000)) for _ in range(3)]
    assert len(best_sums(scores, 5)) == 5
    assert Counted.looked_at < 100


def test_a_token_without_scores_leaves_nothing():
    assert best_sums([[-1.0], []], 3) == []
