# SPDX-License-Identifier: Apache-2.0
"""Sentences: where they end, against the rule written plainly, and on text of one kind only in linear time."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("datasets")

from plain_sentences import plain_split

from spanbert_ext.pretrain.rows.blocks import pack_sentences
from spanbert_ext.pretrain.text.sentences import LONGEST, cut_text, sentence_spans, split_sentences


@pytest.mark.parametrize(
    "text, expected",
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Line one\nline two. And more.", ["Line one", "line two.", "And more."]),
        ('He said "No." She left (early.) End.', ['He said "No."', "She left (early.)", "End."]),
        ("Dr. Who met J. R. Jones, e.g. Tuesday.", ["Dr. Who met J. R. Jones, e.g. Tuesday."]),
        ("It costs 3.5 dollars. 12 were sold.", ["It costs 3.5 dollars.", "12 were sold."]),
        ("no end. lower case goes on", ["no end. lower case goes on"]),
        ("\u4eca\u65e5\u3002\u660e\u65e5\u3002", ["\u4eca\u65e5\u3002", "\u660e\u65e5\u3002"]),
        ("\u300c\u4eca\u65e5\u3002\u300d", ["\u300c\u4eca\u65e5\u3002\u300d"]),  # the bracket closes it
        ("\u4eca\uff01\uff1f\u300d\u660e\uff01\uff01", ["\u4eca\uff01\uff1f\u300d", "\u660e\uff01\uff01"]),
        ("Wait... What?! \u201cYes.\u201d\u2003(No.)", ["Wait...", "What?!", "\u201cYes.\u201d", "(No.)"]),
    ],
)  # fmt: skip
def test_sentences(text, expected):
    assert split_sentences(text) == plain_split(text) == expected


# Characters of each class of the rule, and pieces that make its cases frequent.
PIECES = [
    *".!?\u2026\u3002\uff01\uff1f\"'()[\u300d \n\t\u2028\u3000\x85aZ1_\u00e9",
    ". A",
    " Mr.",
    "e.g. B",
    ".) (C",
    ".. ",
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_any_text_is_split_as_the_plain_rule_does(text):
    assert split_sentences(text) == plain_split(text)


MANY = 300_000
KINDS = {
    "stops": "x" + "." * MANY,
    "stops apart": ". " * (MANY // 2),
    "initials": "A. " * (MANY // 3),
    "abbreviations": "Mr. " * (MANY // 4),
    "closing quotes": "x." + '"' * MANY,
    "stops, then quotes": "." * (MANY // 2) + "'" * (MANY // 2),
    "opening brackets": "x. " + "(" * MANY,
    "spaces": "x." + " " * MANY + "a",
    "stops, then spaces": "." * (MANY // 2) + " " * (MANY // 2) + "a",
    "Unicode spaces": "x." + "\u2028\u3000" * (MANY // 2) + "a",
    "CJK stops": "\u3002" * MANY,
    "CJK stop, then quotes": "\u3002" + "\u300d" * MANY,
    "CJK stops, then quotes": "\u3002" * (MANY // 2) + "\u300d" * (MANY // 2),
    "one word": "a" * MANY,
    "words": "word " * (MANY // 5) + "word",
    "line ends": "\n" * MANY,
}


@pytest.mark.parametrize("kind", KINDS)
def test_text_of_one_kind_takes_linear_time(kind):
    """0.05 to 1 second; what is quadratic takes half an hour."""
    text = KINDS[kind]
    start = time.process_time()
    sentences = split_sentences(text)
    assert time.process_time() - start < 20
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert max(map(len, sentences), default=0) <= LONGEST


@settings(max_examples=200, deadline=None)
@given(st.text("ab \u3000\t", min_size=1, max_size=60), st.integers(1, 20))
def test_long_text_is_cut_at_white_space(text, longest):
    text = f"a{text}b"
    spans = list(cut_text(text, 0, len(text), longest))
    pieces = [text[start:end] for start, end in spans]
    assert all(0 < len(piece) <= longest and piece == piece.strip() for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    for (_, stop), (start, _) in zip(spans, spans[1:], strict=False):
        assert text[stop:start].isspace() or start - stop == 0
        if start == stop:  # inside a word: only one that fills the piece
            assert not re.search(r"\s", text[stop - longest : stop + 1])
    words = text.split()
    if max(map(len, words)) <= longest:
        assert " ".join(pieces).split() == words


def test_a_long_sentence_is_several():
    word = "x" * 99
    text = " ".join([word] * 2500) + ". Next."
    spans = list(sentence_spans(text))
    assert [end - start for start, end in spans] == [99_999, 99_999, 50_000, 5]
    assert " ".join(split_sentences(text)) == text


def test_blocks_hold_whole_sentences_and_every_token_once():
    blocks = list(pack_sentences([4, 5, 2, 23, 3, 10, 1], 10))
    assert blocks == [
        (0, 9),  # 4 + 5
        (9, 11),  # 2: the next one does not fit
        (11, 21),  # 23, longer than a block: cut, not dropped
        (21, 31),
        (31, 37),  # its last 3, and 3
        (37, 47),
        (47, 48),
    ]
    assert list(pack_sentences([], 10)) == [] and list(pack_sentences([10], 10)) == [(0, 10)]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 12))
def test_blocks_are_the_greedy_ones(lengths, capacity):
    """Against a packing of the tokens themselves."""
    blocks: list[list[int]] = [[]]
    for number, length in enumerate(lengths):
        sentence = [number] * length
        if len(blocks[-1]) + length > capacity:
            blocks.append([])
            while len(sentence) > capacity:
                blocks.append(sentence[:capacity])
                sentence = sentence[capacity:]
            blocks.append([])
        blocks[-1] += sentence
    tokens = [number for number, length in enumerate(lengths) for _ in range(length)]
    assert [tokens[start:end] for start, end in pack_sentences(lengths, capacity)] == [b for b in blocks if b]


def test_a_sentence_of_millions_of_tokens_is_packed_in_linear_time():
    start = time.process_time()
    blocks = list(pack_sentences([1, 30_000_000, 1], 62))
    assert time.process_time() - start < 20  # 0.1
    sizes = {end - start for start, end in blocks[1:-1]}
    assert blocks[0] == (0, 1) and blocks[-1][1] == 30_000_002 and sizes == {62}
