# SPDX-License-Identifier: Apache-2.0
"""Documents of a text that comes in pieces: what ends one, and how one is cut that is too long for the memory."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spanbert_ext.pretrain.text import text_files
from spanbert_ext.pretrain.text.text_files import limited, split_text

PARTS = ["word", "A", " ", "  ", "\n", "\n\n", ". ", "end. The ", "x" * 30, " " * 25, "\ufeff", "---\n"]


@pytest.fixture
def short_documents(monkeypatch):
    monkeypatch.setattr(text_files, "LONGEST_DOCUMENT", 120)
    monkeypatch.setattr(text_files, "LONGEST", 20)


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in zip(edges, edges[1:], strict=False)]


@pytest.mark.usefixtures("short_documents")
@pytest.mark.parametrize("separator", [None, "---"])
def test_documents_do_not_depend_on_where_the_pieces_end(separator):
    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.sampled_from(PARTS), max_size=60), st.lists(st.integers(0, 5_000), max_size=8))
    @example(["x" * 30] * 4 + ["---\n"], [])  # what is left of a line is the separator
    def check(parts, places):
        text = "".join(parts)
        whole = list(split_text([text], separator))
        assert list(split_text(cut(text, places), separator)) == whole
        assert list(split_text(text, separator)) == whole  # a character a piece
        assert all(0 < len(document) <= 120 and document == document.strip() for document in whole)
        kept = "".join("".join(whole).split())
        lost = "".join(text.replace("\ufeff", "").split())
        if separator is None:
            assert kept.replace("\ufeff", "") == lost

    check()


@pytest.mark.usefixtures("short_documents")
def test_a_long_document_is_cut_before_a_sentence():
    sentences = [f"This is sentence number {number}." for number in range(20)]
    found = list(split_text([" ".join(sentences)]))
    assert len(found) > 4 and " ".join(found) == " ".join(sentences)
    assert all(document.startswith("This") and document.endswith(".") for document in found)
    lines = [f"Verse {number} without a stop" for number in range(20)]
    found = list(split_text(["\n".join(lines)]))
    assert "\n".join(found).split("\n") == lines


@pytest.mark.usefixtures("short_documents")
def test_a_word_without_end_is_cut_where_it_must():
    assert [len(part) for part in limited("a" * 300)] == [120, 120, 60]
    assert "".join(limited("a" * 300)) == "a" * 300


def test_the_memory_holds_a_piece_and_a_document_whatever_a_line_holds(monkeypatch):
    monkeypatch.setattr(text_files, "LONGEST_DOCUMENT", 1 << 18)
    for piece in ("word " * 2_000, "a" * 10_000, " " * 10_000):
        tracemalloc.start()
        count = sum(1 for _ in split_text(piece for _ in range(1_000)))  # ten million characters in one line
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count >= (38 if piece.strip() else 0)
        assert peak < 2_500_000


def test_the_memory_holds_a_document_where_pieces_end_with_lines(monkeypatch):
    monkeypatch.setattr(text_files, "LONGEST_DOCUMENT", 1 << 16)
    for end in ("\n", "\n  "):  # lines of 32 bytes end where a file's pieces of 2^20 do
        piece = "Sentences of 31 bytes, a line. " * 2 + "\n"
        tracemalloc.start()
        count = sum(1 for _ in split_text(piece * 160 + end[1:] for _ in range(60)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count >= 9
        assert peak < 800_000


@pytest.mark.usefixtures("short_documents")
def test_nothing_but_marks_behind_a_cut_is_no_document():
    assert list(split_text(["a" * 120 + " \ufeff"])) == ["a" * 120]
    assert list(limited("a" * 120 + " \ufeff")) == ["a" * 120]


def test_white_space_without_end_inside_a_line_ends_it(monkeypatch):
    monkeypatch.setattr(text_files, "LONGEST_DOCUMENT", 1 << 12)
    assert list(split_text(["one", *[" " * 100] * 200, "two"])) == ["one\ntwo"]
    assert list(split_text(["one", *[" " * 100] * 20, "two"])) == ["one" + " " * 2_000 + "two"]


def test_a_separator_stands_for_the_blank_line():
    text = "Title\n\nFirst paragraph.\n\nSecond.\n  <|end|> \nNext\n<|end|> inside\n<|end|>\n<|end|>\n"
    assert list(split_text([text], "<|end|>")) == [
        "Title\nFirst paragraph.\nSecond.",
        "Next\n<|end|> inside",
    ]
    assert list(split_text([text])) == [
        "Title",
        "First paragraph.",
        "Second.\n<|end|>\nNext\n<|end|> inside\n<|end|>\n<|end|>",
    ]
