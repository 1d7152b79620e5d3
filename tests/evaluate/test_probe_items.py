# SPDX-License-Identifier: Apache-2.0
"""What probes ask: places in texts and right answers, the same for every tokenizer."""

from __future__ import annotations

from collections import Counter

import tiny_documents

from spanbert_ext.evaluate.data.conll import read_conll
from spanbert_ext.evaluate.data.gap import read_gap
from spanbert_ext.evaluate.tasks.probe.items import (
    Item,
    chosen,
    coreference_items,
    gap_items,
    known_words,
    length_items,
    mention_items,
    passages_of,
    word_items,
)


def documents(tmp_path, times: int = 1):
    for number in range(times):
        for name, sentences in tiny_documents.DOCUMENTS.items():
            (tmp_path / f"{name}{number}.conll").write_text(
                tiny_documents.conll(f"{name}{number}", sentences)
            )
    return read_conll(tmp_path)


def span(item: Item, first: int, last: int) -> str:
    """The text from one read to another."""
    return item.text[item.reads[first] : item.reads[last] + 1]


def test_passages_hold_all_words_and_the_mentions_inside_them(tmp_path) -> None:
    for document in documents(tmp_path):
        passages = passages_of(document, 12)
        words = [p.text[a:b] for p in passages for a, b in p.words]
        assert words == document.words
        assert all(p.text.endswith(".") and len(p.words) <= 12 for p in passages)
        found = Counter(
            (p.text[p.ends(*m)[0] : p.ends(*m)[1] + 1], c) for p in passages for m, c in p.mentions.items()
        )
        expected = Counter(
            (" ".join(document.words[a : b + 1]), number)
            for number, cluster in enumerate(document.clusters)
            for a, b in cluster
        )
        assert found == expected


def test_pairs_of_mentions_are_half_coreferent_and_do_not_overlap(tmp_path) -> None:
    found = documents(tmp_path)
    items = list(coreference_items(found, 64))
    assert items == list(coreference_items(found, 64))
    clusters = {
        document.name: [
            {" ".join(document.words[a : b + 1]) for a, b in cluster} for cluster in document.clusters
        ]
        for document in found
    }
    assert len(items) > 20 and Counter(item.answer for item in items)[(1,)] * 2 == len(items)
    for item in items:
        earlier, later = span(item, 0, 1), span(item, 2, 3)
        assert item.reads[1] < item.reads[2]
        together = any(earlier in cluster and later in cluster for cluster in clusters[item.cluster])
        assert together == bool(item.answer[0]) or "it" in (earlier, later)  # of two clusters of one document
    assert len({item.id for item in items}) == len(items)


def test_mentions_and_spans_that_are_none(tmp_path) -> None:
    found = documents(tmp_path)
    items = list(mention_items(found, 64))
    mentions = {
        (document.name, " ".join(document.words[a : b + 1]))
        for document in found
        for cluster in document.clusters
        for a, b in cluster
    }
    right = [item for item in items if item.answer == (1,)]
    assert {(item.cluster, span(item, 0, 1)) for item in right} == mentions
    assert 1.2 < len(items) / len(right) <= 3
    ids = Counter(item.id for item in items)
    assert max(ids.values()) == 1
    assert all(0 <= a <= b < len(item.text) for item in items for a, b in [item.reads])


def test_boundaries_stand_just_outside_spans_of_the_answered_length(tmp_path) -> None:
    found = documents(tmp_path, times=4)
    items = list(length_items(found, 64))
    lengths = Counter(item.answer[0] + 1 for item in items)
    assert min(lengths) == 1 and max(lengths) <= 10 and lengths[1] > lengths[6]
    for item in items:
        left, right = item.reads
        inside = item.text[left + 1 : right].split()
        assert len(inside) == item.answer[0] + 1
        assert item.text[left + 1] == " " == item.text[right - 1]

    known = known_words(found)
    items = list(word_items(found, known, 64))
    assert known[0] == "the" and "." not in known
    for item in items:
        left, right = item.reads
        inside = {word.lower() for word in item.text[left + 1 : right].split()}
        assert {known[number] for number in item.answer} == inside - {".", ",", "1842"}


def test_gap_asks_of_both_names(tmp_path) -> None:
    (tmp_path / "gap.tsv").write_text(tiny_documents.gap())
    items = list(gap_items(read_gap(tmp_path / "gap.tsv")))
    found = [(*(span(item, i, i + 1) for i in (0, 2, 4, 6)), item.answer, item.gender) for item in items[:3]]
    assert found == [
        ("Anna", "She", "Joan", "She", (0,), "feminine"),
        ("Tom", "He", "Paul", "He", (1,), "masculine"),
        ("Joan", "her", "Mary", "her", (2,), "feminine"),
    ]
    assert (items[0].id, items[0].cluster) == ("development-1", items[1].cluster)


def test_the_same_items_are_chosen_whatever_their_order() -> None:
    items = [Item(str(number), "c", "text", (0,), (0,)) for number in range(50)]
    some = chosen(items, 7)
    assert len(some) == 7 and set(chosen(items[::-1], 7)) == set(some)
    assert some == sorted(some, key=items.index) and chosen(items, 50) == items
    assert set(chosen(items, 6)) < set(some)
