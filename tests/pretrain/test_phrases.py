# SPDX-License-Identifier: Apache-2.0
"""The phrases that may be masked as a whole: entities by their capitals, noun phrases by textblob's chunker."""

from __future__ import annotations

import pickle
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanbert_ext.pretrain.text import phrases
from spanbert_ext.pretrain.text.phrases import KINDS, find_entities, find_noun_phrases, phrase_finder


def found(finder, sentence: str) -> list[str]:
    return [sentence[start:end] for start, end in finder(sentence)]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("The queen met Barack Obama in Berlin.", ["Barack Obama", "Berlin"]),
        ("Berlin is in Germany.", ["Germany"]),  # the first word shows nothing
        ("it was the Bank of England that paid", ["Bank of England"]),
        ("he saw Trinidad and Tobago and the sea", ["Trinidad and Tobago"]),  # no link at the end of a run
        ("they left the Republic of the Congo and of Chad", ["Republic of the Congo and of Chad"]),
        ("they gave Miguel de Cervantes of honey", ["Miguel de Cervantes"]),
        ("she asked Dr. J. R. R. Tolkien of Oxford.", ["Dr. J. R. R. Tolkien of Oxford"]),
        ("they saw the U.S. Senate, the House and London", ["U.S. Senate", "House and London"]),
        ("in Paris, London and Rome", ["Paris", "London and Rome"]),  # a comma ends a run
        (
            "we know O'Brien's Rolls-Royce and D\u2019Arcy\u2019s AT&T",
            ["O'Brien", "Rolls-Royce and D\u2019Arcy", "AT&T"],
        ),
        ("he went to Marks & Spencer", ["Marks & Spencer"]),
        ("then I saw that I'm not in World War 2 or in 1939", ["World War"]),  # no pronoun, no number
        ('he said: "We like Oslo."', ["Oslo"]),  # a quotation has a first word too
        ('they watched "The Great Dictator" twice', ["The Great Dictator"]),  # a title has none
        ("wir sahen \u00c4gypten und \u0130zmir", ["\u00c4gypten", "\u0130zmir"]),
        ("The History of England", []),  # a heading
        ("GENERAL TERMS AND CONDITIONS", []),
        ("nothing here", []),
        ("", []),
        (" \u2026 1 , ", []),
    ],
)
def test_entities(sentence, expected):
    assert found(find_entities, sentence) == expected


needs_textblob = pytest.mark.skipif(
    pytest.importorskip("importlib.util").find_spec("textblob") is None, reason="textblob is not installed"
)


@needs_textblob
@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("The old house stood on a steep hill.", ["The old house", "a steep hill"]),
        ("She saw it.", ["She", "it"]),
        ("The dog didn't see the cat's tail.", ["The dog", "the cat", "tail"]),
        ("\u201cThe dog didn\u2019t see the cat\u2019s tail.\u201d", ["The dog", "the cat", "tail"]),
        ("The U.S. army (with 3,500 men) marched.", ["The U.S. army", "3,500 men"]),
        ("the  red\u00a0car\tis here", ["the  red\u00a0car"]),
        ("A 2/3 majority of well-known people agreed.", ["A 2/3 majority", "well-known people"]),
        ("is of and to", []),
        ("", []),
        (" \n ", []),
        ("the cat/the dog * the bird - a fish", ["the cat", "the dog", "the bird", "a fish"]),
        ("\u2603 \U0001f600 !!! ((( '' \"", []),
    ],
)
def test_noun_phrases(sentence, expected):
    assert found(find_noun_phrases, sentence) == expected


@needs_textblob
@pytest.mark.parametrize("stop", [",", " by"])
def test_noun_phrases_of_a_long_sentence(stop):
    """Longer than what is tagged at once, with stops and without."""
    part = f"the old house stood on a steep hill{stop} "
    expected = ["the old house", "a steep hill"] * 300
    got = found(find_noun_phrases, part * 300)
    if stop == ",":
        assert got == expected
    else:  # a cut may divide a phrase, one in 200 words
        assert sum(phrase in ("the old house", "a steep hill") for phrase in got) >= 600 - 2 * 300 * 9 // 200


WORDS = (
    "The the Old house of and very good he He's n't I U.S. , . ' \" & ( ) - / A 12 either or \u2019s".split()
)


@pytest.mark.parametrize("kind", ["entities", pytest.param("noun-phrases", marks=needs_textblob)])
class TestEveryFinder:
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(
        st.one_of(
            st.text(max_size=60),
            st.lists(st.sampled_from(WORDS)).map(" ".join),
        )
    )
    def test_spans_ascend_and_hold_text(self, kind, sentence):
        last = 0
        for start, end in phrase_finder(kind)(sentence):
            assert last <= start < end <= len(sentence)
            assert sentence[start:end] == sentence[start:end].strip()
            last = end

    def test_it_goes_to_other_processes(self, kind):
        finder = phrase_finder(kind)
        sentence = "the old house in Berlin"
        assert pickle.loads(pickle.dumps(finder))(sentence) == finder(sentence) != []

    @pytest.mark.parametrize(
        "part",
        [
            "x",
            "A",
            "A ",
            "of ",
            "A of ",
            ". ",
            "'",
            ', "',
            ",'' ",
            "don't",
            "n't ",
            "A.",
            "a-",
            "1,",
            "big ",
            "and ",
            "the very ",
        ],
    )
    def test_time_is_proportional_to_the_text(self, kind, part):
        """Eight times the text; a quadratic step would take sixty-four times as long."""
        finder = phrase_finder(kind)

        def seconds(size: int) -> float:
            text = "a " + part * (size // len(part))
            begin = time.process_time()
            finder(text)
            return time.process_time() - begin

        seconds(2_000)  # what is loaded once
        assert seconds(16_000) < 25 * max(seconds(2_000), 1e-3)


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="kind is 'verbs'; expected one of 'entities', 'noun-phrases'"):
        phrase_finder("verbs")
    assert KINDS == ("entities", "noun-phrases")


def test_without_textblob_the_command_that_installs_it_is_named(monkeypatch):
    phrases._english_parser.cache_clear()
    monkeypatch.setitem(sys.modules, "textblob.en", None)
    with pytest.raises(
        ImportError, match=r"noun phrases need textblob.*pip install 'spanbert-ext\[phrases\]'"
    ):
        phrase_finder("noun-phrases")
    phrase_finder("entities")  # needs nothing
