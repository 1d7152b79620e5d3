# SPDX-License-Identifier: Apache-2.0
"""Pairs: documents worked by hand, both rules against the published algorithms written plainly, and their draws."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("datasets")

from plain_pairs import plain_pairs
from row_samples import made_rows, token_documents

from spanbert_ext.pretrain.rows.pairs import Draws, build_pairs, cuts, pairs_of_document, split_point
from spanbert_ext.pretrain.rows.token_documents import TokenDocuments


class Scripted:
    """Draws that are written down; `asked` is what was asked for."""

    def __init__(self, *answers: int | bool) -> None:
        self.answers = list(answers)
        self.asked: list[tuple] = []

    def _answer(self, *question) -> int | bool:
        self.asked.append(question)
        return self.answers.pop(0)

    def below(self, count: int) -> int:
        return self._answer("below", count)

    def happens(self, share: float) -> bool:
        return self._answer("happens", share)

    def heads(self, coins: int) -> int:
        return self._answer("heads", coins) if coins else 0


# Documents: 0 has sentences at tokens 0-4, 4-7, 7-12, 12-14; 1 at 0-3, 3-9; 2 has one of 20 tokens.
DOCUMENTS = [[4, 3, 5, 2], [3, 6], [20]]


def pairs(place: int, draws: Scripted, rule: str = "google", capacity: int = 10, short: float = 0.0) -> list:
    documents = token_documents(DOCUMENTS)
    made = list(pairs_of_document(place, np.arange(3), documents, capacity, draws, rule, short))
    assert not draws.answers
    return made


def test_b_continues_a():
    # no short target; the chunk is sentences 0-2 (12 tokens): A has 2 of them; no random B; 2 tokens too many: one of
    # A (7 > 5), 6 to 5: another of A; one of them from its front. Then one sentence is left: it wants a random B, of
    # 8 tokens: document 1 from its sentence 0 on has 9, of which one goes, from the back.
    draws = Scripted(False, 1, False, 1, *(1, 0, 0))
    assert pairs(0, draws) == [(1, 6, 0, 7, 12, 0), (12, 14, 1, 0, 8, 1)]
    assert draws.asked == [
        *[("happens", 0.0), ("below", 2), ("happens", 0.5), ("heads", 2)],
        *[("below", 3), ("below", 2), ("heads", 1)],
    ]


def test_what_a_left_is_gathered_again_after_a_random_b():
    # A is sentence 0 of three; B: document 0 is drawn twice, then 2, which has more than 6 tokens: 14 too many, all
    # of B, 9 from its front. The next chunk begins with sentence 1 and ends with the document.
    draws = Scripted(False, 0, True, *(0, 0, 2, 0, 9), *(1, False))
    assert pairs(0, draws) == [(0, 4, 2, 9, 15, 1), (4, 12, 0, 12, 14, 0)]


@pytest.mark.parametrize(
    ("rule", "count", "expected"),
    [("google", 2, [{1}, {0}]), ("spanbert", 2, [{1}, {0}]), ("spanbert", 3, [{1}, {0}, {0, 1}])],
)
def test_a_random_b_is_of_another_document_where_there_is_one(rule, count, expected):
    documents = token_documents([[4] * 40] * count)
    made = build_pairs(documents, np.arange(count), 16, rule, copies=4)
    made = made[made["is_random"] == 1]
    assert [set(made["other"][made["document"] == number].tolist()) for number in range(count)] == expected


def test_ten_failures_to_find_another_document():
    draws = Scripted(False, *[2] * 10, 0, 14, 8)
    # one sentence of 20 against itself: 30 too many, 15 each
    assert pairs(2, draws) == [(14, 19, 2, 8, 13, 1)]
    assert [q for q in draws.asked if q[0] == "heads"] == [("heads", 15), ("heads", 15)]


def test_short_targets():
    """A target of 4: sentences end a chunk as soon as 4 are reached. Rows may still be as long as others."""
    draws = Scripted(True, 2, *(1, 0), *(0, False), *(1, 0))
    made = pairs(0, draws, short=0.25)
    assert draws.asked[:2] == [("happens", 0.25), ("below", 9)]  # 2 ... 10
    assert made == [(0, 4, 1, 0, 3, 1), (4, 7, 0, 7, 12, 0), (12, 14, 1, 0, 3, 1)]


def test_where_spanberts_code_differs():
    assert [split_point(n, Scripted(), "spanbert") for n in (1, 2)] == [1, 1]  # no draw
    assert split_point(3, Scripted(0), "spanbert") == 1
    assert split_point(1, Scripted(), "google") == 1 and split_point(2, Scripted(0), "google") == 1
    for rule, most in (("google", 4), ("spanbert", 3)):
        draws = Scripted(0)
        split_point(5, draws, rule)
        assert draws.asked == [("below", most)]
    draws = Scripted(True, 6, *(0, 0), 3)  # one sentence of 20, target 8
    pairs(2, draws, "spanbert", short=0.1)
    assert draws.asked[1] == ("below", 8)  # 2 ... 9: the upper bound is exclusive
    assert draws.asked[2] == ("below", 2)  # never the last document


@pytest.mark.parametrize("capacity", [2, 5, 8, 13])
def test_cuts_are_those_of_one_token_at_a_time(capacity):
    for a, b in itertools.product(range(1, 20), repeat=2):
        x, y = a, b
        while x + y > capacity:
            x, y = (x - 1, y) if x > y else (x, y - 1)
        assert cuts(a, b, capacity) == (a - x, b - y)


def corpus(count: int) -> list[list[int]]:
    draw = random.Random(5)
    return [[draw.randint(1, 30) for _ in range(draw.randint(1, 12))] for _ in range(count)]


@pytest.mark.parametrize("rule", ["google", "spanbert"])
@pytest.mark.parametrize("short", [0.0, 0.3])
def test_pairs_have_the_law_of_the_published_code(rule, short):
    """Over 40 passes: where A and B begin and how long they are, how often B is random, how many pairs there are."""
    lengths, copies = corpus(30), 40
    documents = token_documents(lengths)
    made = build_pairs(documents, np.arange(30), 64, rule, short, copies)
    texts = [
        [
            [(number, k) for k in range(sum(document[:i]), sum(document[: i + 1]))]
            for i in range(len(document))
        ]
        for number, document in enumerate(lengths)
    ]
    draw = random.Random(1)
    plain = [
        (copy, *pair)
        for copy in range(copies)
        for index in range(30)
        for pair in plain_pairs(texts, index, 64, rule, short, draw)
    ]
    first = {
        "pairs in a pass": np.bincount([copy for copy, *_ in plain]),
        "random": np.array([is_random for _, _, _, is_random in plain]),
        "a": np.array([len(a) for _, a, _, _ in plain]),
        "b": np.array([len(b) for _, _, b, _ in plain]),
        "a begins": np.array([a[0][1] for _, a, _, _ in plain]),
        "b begins": np.array([b[0][1] for _, _, b, _ in plain]),
        "full": np.array([len(a) + len(b) == 61 for _, a, b, _ in plain]),
        "other": np.array([b[0][0] for _, _, b, _ in plain]),
    }
    second = {
        "pairs in a pass": np.bincount(made["copy"]),
        "random": made["is_random"],
        "a": made["end"] - made["start"],
        "b": made["next_end"] - made["next_start"],
        "a begins": made["start"],
        "b begins": made["next_start"],
        "full": made["end"] - made["start"] + made["next_end"] - made["next_start"] == 61,
        "other": made["other"],
    }
    for name in first:
        x, y = first[name].astype(float), second[name].astype(float)
        error = np.sqrt(x.var() / len(x) + y.var() / len(y))
        assert abs(x.mean() - y.mean()) <= 4 * error, name
    if rule == "spanbert":
        assert 29 not in made["other"][made["other"] != made["document"]]
    same = made["other"] == made["document"]
    assert (same == (made["is_random"] == 0)).mean() > 0.999
    assert (made["next_start"] >= made["end"])[made["is_random"] == 0].all()


def test_pairs_of_a_document_follow_its_text(monkeypatch):
    """Its place, the other documents' texts and the number of passes change nothing but which text a B is of."""
    lengths = [[5, 9, 4, 7, 6, 3], [8, 8, 8], [2] * 20]
    rows = made_rows(token_documents(lengths), 24, "google", copies=3)
    monkeypatch.setattr("spanbert_ext.pretrain.rows.pairs._STRETCH", 2)
    assert made_rows(token_documents(lengths), 24, "google", copies=3).index.tolist() == rows.index.tolist()
    alone = made_rows(token_documents(lengths), 24, "google", copies=1)
    assert rows.index[rows.index["copy"] == 0].tolist() == alone.index.tolist()
    names = ["document", "start", "end", "is_random"]
    by_copy = [rows.index[rows.index["copy"] == copy][names].tolist() for copy in range(3)]
    assert by_copy[0] != by_copy[1] != by_copy[2]
    assert made_rows(token_documents(lengths), 24, "google", seed=1).index.tolist() != alone.index.tolist()
    turned = TokenDocuments(rows.documents.dataset.select([2, 1, 0]))
    first = build_pairs(turned, np.arange(3), 24, "google")[-1:]  # of document 0, which is the last one now
    names = ["number", "is_random"]
    own = alone.index[alone.index["document"] == 0]
    assert first[names].tolist() == own[-1:][names].tolist()


def test_documents_without_tokens_and_a_part_of_the_documents():
    documents = token_documents([[4, 4], [], [5, 5], [6, 6], [7, 7]])
    made = build_pairs(documents, np.array([0, 1, 2, 4]), 16, "google", copies=20)
    assert set(made["document"]) == {0, 2, 4} and set(made["other"]) == {0, 2, 4}
    assert len(build_pairs(documents, np.array([1]), 16, "google")) == 0
    assert len(build_pairs(documents, np.array([], dtype=int), 16, "google")) == 0


def test_draws_are_fixed_and_uniform():
    draws = Draws(3, 1, -7)
    assert [draws.below(1000) for _ in range(4)] == [582, 148, 534, 996]
    assert [Draws(3, 1, 2**64 - 7).below(1000) for _ in range(1)] == [582]
    counts = Counter(draws.below(3) for _ in range(6000))
    assert all(abs(counts[i] - 2000) < 200 for i in range(3))
    assert sum(draws.happens(0.1) for _ in range(10_000)) == pytest.approx(1000, abs=120)
    assert not any(draws.happens(0.0) for _ in range(500)) and all(draws.happens(1.0) for _ in range(500))
    heads = [draws.heads(100) for _ in range(1000)]
    assert np.mean(heads) == pytest.approx(50, abs=0.8) and np.var(heads) == pytest.approx(25, rel=0.2)
    assert {draws.heads(1) for _ in range(50)} == {0, 1} and draws.heads(0) == 0
