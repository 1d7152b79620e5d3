# SPDX-License-Identifier: Apache-2.0
"""Words as tokens, rows that keep what they need, documents cut at sentences, files that are parts of a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spanbert_ext.evaluate.data.conll import CorefDocument
from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.tasks.parts import group_parts
from spanbert_ext.evaluate.tasks.passages import breaks_of, cut
from spanbert_ext.evaluate.tasks.spans import kept_tokens, token_span, word_tokens

# "un do  it" with the tokens un, do, nothing, " it" (a byte-level token has its blank)
OFFSETS = np.array([(0, 2), (3, 5), (5, 5), (6, 9)])


@pytest.mark.parametrize(
    "span, expected",
    [((0, 2), (0, 0)), ((1, 4), (0, 1)), ((3, 9), (1, 3)), ((2, 3), None), ((5, 6), None), ((8, 9), (3, 3))],
)
def test_a_span_is_the_tokens_that_it_touches(
    span: tuple[int, int], expected: tuple[int, int] | None
) -> None:
    assert token_span(OFFSETS, *span) == expected


def test_words_have_the_tokens_that_begin_in_them_or_in_the_blank_before() -> None:
    words = [(0, 2), (3, 5), (7, 9), (10, 11)]
    first, count = word_tokens(OFFSETS, words)
    assert count.tolist() == [1, 1, 1, 0]
    assert first[:3].tolist() == [0, 1, 3]


def test_a_row_with_room_keeps_all_between_what_it_needs_and_as_many_on_both_sides() -> None:
    assert kept_tokens(5, [2], 9).tolist() == [0, 1, 2, 3, 4]
    assert kept_tokens(100, [40, 50], 15).tolist() == list(range(38, 53))
    assert kept_tokens(100, [1, 50], 60).tolist() == list(range(60))
    assert kept_tokens(100, [], 4).tolist() == [0, 1, 2, 3]


def test_a_row_without_room_keeps_the_nearest_and_never_loses_what_it_needs() -> None:
    kept = kept_tokens(1000, [10, 20, 700, 705], 40).tolist()
    assert len(kept) == 40 and kept == sorted(kept) and {10, 20, 700, 705} <= set(kept)
    assert set(range(10, 21)) <= set(kept) and 400 not in kept


def document(*sentences: str) -> CorefDocument:
    return CorefDocument("d", "", tuple(tuple(s.split()) for s in sentences), ())


def test_a_cut_is_at_the_last_end_of_a_sentence_that_has_room() -> None:
    found = document("a b c .", "d e .", "f g h i j .", "k .")
    assert cut([1] * 15, breaks_of(found), 8) == [(0, 7), (7, 15)]
    assert cut([1] * 15, breaks_of(found), 7) == [(0, 7), (7, 13), (13, 15)]
    assert cut([1] * 15, breaks_of(found), 5) == [(0, 4), (4, 7), (7, 12), (12, 15)]


def test_without_sentences_a_cut_is_behind_a_full_stop_else_anywhere() -> None:
    found = document("a b . c d e f g h i ! j")
    assert cut([1] * 12, breaks_of(found), 4) == [(0, 3), (3, 7), (7, 11), (11, 12)]


def test_sizes_of_words_count_and_a_word_that_is_too_large_stands_alone() -> None:
    found = document("a b c d e")
    assert cut([2, 0, 9, 3, 1], breaks_of(found), 4) == [(0, 2), (2, 3), (3, 5)]
    assert cut([], np.array([]), 4) == []


def test_files_that_differ_in_train_and_dev_alone_are_one_data_set() -> None:
    files = [
        Path(f"x/{name}")
        for name in ("train.txt.xz", "dev.txt", "news-train.json", "news-dev.json", "a.json")
    ]
    found = [
        (parts.name, parts.has_split, [file.name for file in parts.files]) for parts in group_parts(files)
    ]
    assert found == [
        ("x", True, ["train.txt.xz", "dev.txt"]),
        ("news", True, ["news-train.json", "news-dev.json"]),
        ("a", False, ["a.json"]),
    ]
    with pytest.raises(DataError, match="the same part of the same data set"):
        group_parts([Path("x/dev.txt"), Path("x/validation.txt")])
