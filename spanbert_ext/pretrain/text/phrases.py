# SPDX-License-Identifier: Apache-2.0
"""The phrases of a sentence that the paper's ablation masks as a whole (section 6.1): named entities, noun phrases.

Neither needs a model or a download. Both take time in proportion to the sentence, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

PhraseFinder = Callable[[str], list[tuple[int, int]]]

KINDS = ("entities", "noun-phrases")


def phrase_finder(kind: str) -> PhraseFinder:
    """What finds the phrases of a sentence: their half-open character spans, ascending, none in another.

    It can be pickled, and keeps nothing of a sentence.

    Args:
        kind: "entities" (`find_entities`) or "noun-phrases" (`find_noun_phrases`).

    Raises:
        ValueError: another kind.
        ImportError: "noun-phrases" without textblob, naming what installs it.
    """
    if kind == "entities":
        return find_entities
    if kind == "noun-phrases":
        _english_parser()  # what is missing is said here, and not by a worker
        return find_noun_phrases
    raise ValueError(f"kind is {kind!r}; expected one of {', '.join(map(repr, KINDS))}")


# --- Entities ---

# Letters and digits, with what holds a name together: O'Brien, Rolls-Royce, AT&T; a genitive ends it.
_WORD = re.compile(r"\w+(?:(?!['\u2019]s\b)['\u2019&-]\w+)*")
# Between the words of one name. A sentence goes on after a full stop only where that ends an initial or a title.
_INSIDE_NAME = re.compile(r"\.?\s*|\s+&\s+")
_LINKS = frozenset(("of", "the", "and", "de"))  # the Bank of England, Trinidad and Tobago
# He said: "The old house ...". The quotation marks of a name follow neither a comma nor a colon.
_QUOTATION_BEGINS = re.compile(r"[,:]\s*[\"'\u201c\u2018\u00ab\u201e]+\Z")


def find_entities(sentence: str) -> list[tuple[int, int]]:
    """Character spans `[start, end)` of the runs of capitalised words, a rule that stands in for a tagger of names.

    "of", "the", "de" and "and" may stand inside a run. The first word of the sentence or of a quotation is in none,
    since everything is capitalised there, nor is the pronoun "I". A sentence in which nothing else is in lower case
    shows no names: it is a heading. Numbers are never in a run, as the paper has it.
    """
    spans: list[tuple[int, int]] = []
    has_lower_case = False
    is_open = False  # whether the last of the spans may go on
    last_end = 0  # of the word before
    for match in _WORD.finditer(sentence):
        word, start, end = match[0], *match.span()
        gap = sentence[last_end:start]
        is_first = last_end == 0 or _QUOTATION_BEGINS.search(gap) is not None
        last_end = end
        is_open = is_open and not is_first and _INSIDE_NAME.fullmatch(gap) is not None
        if _is_capitalised(word) and not is_first:
            if is_open:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((start, end))
            is_open = True
        elif word not in _LINKS:
            is_open = False
            has_lower_case |= word[0].islower()
    return spans if has_lower_case else []


def _is_capitalised(word: str) -> bool:
    return word[0].isupper() and re.split("['\u2019]", word, maxsplit=1)[0] != "I"


# --- Noun phrases ---

# The words that the tagger's lexicon knows: with the dots of abbreviations, without clitics. Else one character.
_TOKEN = re.compile(
    r"""
      (?:[^\W\d_]\.){2,}                              # U.S.
    | \b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|No)\.
    | \w+?(?=n['\u2019]t\b) | n['\u2019]t\b           # do n't
    | (?<=\w)['\u2019](?:s|d|m|ll|re|ve)\b            # she 's
    | \d+(?:[.,:/]\d+)*\w*
    | \w+(?:[-&]\w+)*
    | [^\w\s]
    """,
    re.VERBOSE,
)
_STOPS = frozenset(".,;:!?()[]\u2014")  # no noun phrase goes across one
_PIECE = 200  # tokens that are tagged at once: the chunker's time grows with their square


def find_noun_phrases(sentence: str) -> list[tuple[int, int]]:
    """Character spans `[start, end)` of the noun phrases of an English sentence, by textblob's chunker.

    Determiners and adjectives belong to them ("the old house"), prepositions do not; a pronoun is one. The words are
    found here and textblob tags them as they are, so that each keeps its place in the text.
    """
    spans: list[tuple[int, int]] = []
    for places in _pieces([match.span() for match in _TOKEN.finditer(sentence)], sentence):
        words = [_plain_word(sentence[start:end]) for start, end in places]
        tagged = _english_parser().parse([words], tokenize=False, collapse=False)[0]
        for (start, end), (_, _, chunk, _) in zip(places, tagged, strict=True):
            if chunk == "B-NP":
                spans.append((start, end))
            elif chunk == "I-NP":
                spans[-1] = (spans[-1][0], end)
    return spans


def _plain_word(token: str) -> str:
    """A token as the lexicon spells it. Symbols that it does not know would be nouns, as all unknown words are."""
    if not any(map(str.isalnum, token)) and token not in ("&", "$", "%"):
        return token if token in _STOPS else ","
    return token.replace("\u2019", "'")


def _pieces(places: list[tuple[int, int]], sentence: str) -> Iterator[list[tuple[int, int]]]:
    """The tokens' places, a few at a time: up to the last stop among them, where there is one."""
    first = 0
    while len(places) - first > _PIECE:
        end = first + _PIECE
        stop = next((i for i in range(end, first, -1) if sentence[places[i - 1][0]] in _STOPS), end)
        yield places[first:stop]
        first = stop
    if first < len(places):
        yield places[first:]


@cache
def _english_parser() -> Any:
    try:
        from textblob.en import parser
    except ImportError as error:
        raise ImportError(
            f"noun phrases need textblob, which cannot be imported ({error}): pip install 'spanbert-ext[phrases]'"
        ) from error
    return parser
