# SPDX-License-Identifier: Apache-2.0
"""Coreference scores: examples worked by hand, and another implementation as oracle."""

from __future__ import annotations

import random

import numpy as np
import pytest

pytest.importorskip("scipy")

from spanbert_ext.evaluate.scores.coref import COREF_METRICS, coref_row


def scores(*documents: tuple[list, list]) -> dict[str, float]:
    rows = np.array([coref_row(gold, predicted) for gold, predicted in documents])
    return {name: metric(rows) for name, metric in COREF_METRICS.items()}


def test_one_document_worked_by_hand() -> None:
    gold, predicted = ["abc", "defg"], ["ab", "cd", "fgh"]
    # MUC: abc falls into 2 parts, defg into {d}, {e}, {fg}: recall (3 - 2 + 4 - 3) / (2 + 3) = 2/5.
    # ab 1 part, cd 2, fgh 2 with h unknown: precision (2 - 1 + 2 - 2 + 3 - 2) / (1 + 1 + 2) = 2/4.
    # B3 recall: (2² + 1²) / 3 + (1² + 2²) / 4 = 35/12 of 7; precision: 2 + (1 + 1) / 2 + 2² / 3 = 13/3 of 7.
    # CEAF-e: abc-ab 4/5, defg-fgh 4/7, together 48/35, of 2 gold and 3 predicted.
    row = coref_row(gold, predicted)
    np.testing.assert_allclose(row, [2, 5, 2, 4, 35 / 12, 7, 13 / 3, 7, 48 / 35, 2, 48 / 35, 3])
    found = scores((gold, predicted))
    assert found["MUC F1"] == pytest.approx(100 * 2 * 0.4 * 0.5 / 0.9)
    assert found["B3 F1"] == pytest.approx(100 * 2 * (5 / 12) * (13 / 21) / (5 / 12 + 13 / 21))
    assert found["CEAFe F1"] == pytest.approx(100 * 2 * (48 / 35) / 5)
    assert found["CoNLL F1"] == pytest.approx((found["MUC F1"] + found["B3 F1"] + found["CEAFe F1"]) / 3)


def test_the_best_pairing_is_not_the_greedy_one() -> None:
    # Greedy takes the first pair (6/7 = 2·3/(4 + 3)) and leaves nothing in common; the best takes the two others.
    assert coref_row(["abcd"], ["abc", "d"])[8] == pytest.approx(6 / 7)
    gold, predicted = ["abcdef", "gh"], ["abcdgh", "ef"]
    crossed, straight = 2 * 2 / 8 + 2 * 2 / 8, 2 * 4 / 12 + 0
    assert crossed > straight and coref_row(gold, predicted)[8] == pytest.approx(crossed)


def test_documents_weigh_by_their_mentions() -> None:
    perfect, empty = (["ab", "cd"], ["ab", "cd"]), (["efgh"], [])
    assert set(scores(perfect).values()) == {100.0}
    assert set(scores(empty).values()) == {0.0}
    both = scores(perfect, empty)
    assert both["MUC F1"] == pytest.approx(100 * 2 * (2 / 5) / (1 + 2 / 5))  # 2 of 5 links, all of them right
    assert both["B3 F1"] == pytest.approx(100 * 2 * 0.5 / 1.5)
    assert both["CEAFe F1"] == pytest.approx(100 * 2 * (2 / 3) / (1 + 2 / 3))


def test_nothing_to_find_and_nothing_found() -> None:
    assert coref_row([], []) == (0,) * 12
    assert set(scores(([], [])).values()) == {0.0}


def test_a_mention_in_two_clusters_is_refused() -> None:
    with pytest.raises(ValueError, match=r"predicted: the mention \(3, 4\) is in two clusters"):
        coref_row([[(1, 2)]], [[(3, 4), (1, 2)], [(3, 4), (5, 5)]])


def random_clusters(mentions: list, drawn: random.Random) -> list[list]:
    kept = [mention for mention in mentions if drawn.random() < 0.8]
    clusters: list[list] = [[] for _ in range(drawn.randint(1, 6))]
    for mention in kept:
        drawn.choice(clusters).append(mention)
    return [cluster for cluster in clusters if cluster]


def corpora() -> list[list[tuple[list, list]]]:
    drawn = random.Random(0)
    return [
        [
            tuple(random_clusters([(document, i) for i in range(drawn.randint(8, 20))], drawn) for _ in "gp")
            for document in range(documents)
        ]
        for documents in (1, 1, 1, 2, 3, 8)
        for _ in range(5)
    ]


@pytest.mark.parametrize("documents", corpora())
def test_totals_are_those_of_scorch(documents: list[tuple[list, list]]) -> None:
    """Over documents as one clustering, whose mentions carry the document's name. (Documents have eight mentions or
    more: of two sides with nothing in common scorch's harmonic mean has no value.)"""
    oracle = pytest.importorskip("scorch.scores")
    gold, predicted = (
        [{*cluster} for document in documents for cluster in document[side]] for side in (0, 1)
    )
    found = scores(*documents)
    for name, function in (("MUC F1", oracle.muc), ("B3 F1", oracle.b_cubed), ("CEAFe F1", oracle.ceaf_e)):
        assert found[name] == pytest.approx(100 * function(gold, predicted)[2], abs=1e-9), name
    assert found["CoNLL F1"] == pytest.approx(100 * oracle.conll2012(gold, predicted), abs=1e-9)
