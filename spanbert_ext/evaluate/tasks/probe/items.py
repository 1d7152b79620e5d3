# SPDX-License-Identifier: Apache-2.0
"""What a probe is asked: places in texts whose states are read, and the answer."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spanbert_ext.evaluate.data.conll import CorefDocument, Mention, without_singletons
from spanbert_ext.evaluate.data.gap import GapExample
from spanbert_ext.evaluate.data.relations import Relation
from spanbert_ext.evaluate.data.tokens import join_tokens
from spanbert_ext.evaluate.tasks.passages import breaks_of, cut

MOST_WORDS = 10  # of a span, in every probe
KNOWN_WORDS = 500  # that the probe of words may answer
# Of the geometric distribution that span lengths are drawn from, as those of SpanBERT's masks are. A longer span than
# MOST_WORDS is cut to that; of masks it is drawn again.
_LENGTH_LAW = 0.2
_WORDS_OF_A_SPAN = 8  # of text, for each span that is drawn


@dataclass(frozen=True, slots=True)
class Item:
    """reads: characters of the text; the states of the tokens that have them are read. answer: number of the class, or
    of the words that are right. gender: of GAP's pronouns."""

    id: str
    cluster: str
    text: str
    reads: tuple[int, ...]
    answer: tuple[int, ...]
    gender: str = ""


@dataclass(frozen=True, slots=True)
class Passage:
    """A run of a document's words as a text. words: where each stands in it. mentions: places in `words`, by
    cluster."""

    document: str
    number: int
    text: str
    words: tuple[tuple[int, int], ...]
    mentions: dict[Mention, int]

    def ends(self, first: int, last: int) -> tuple[int, int]:
        """The first and the last character of a span of words."""
        return self.words[first][0], self.words[last][1] - 1

    def draw(self, what: str) -> np.random.Generator:
        """Random numbers that are the same whenever the passage is read."""
        seed = hashlib.sha256(f"{what} {self.document} {self.number}".encode()).digest()
        return np.random.default_rng(int.from_bytes(seed[:8], "little"))

    def id(self, *spans: Mention) -> str:
        return f"{self.document}:{self.number}:" + ":".join(f"{a}-{b}" for a, b in spans)


def passages_of(document: CorefDocument, most_words: int) -> list[Passage]:
    """Cut where sentences end, the same for every tokenizer."""
    words = document.words
    found = []
    for number, (begin, end) in enumerate(cut([1] * len(words), breaks_of(document), most_words)):
        text, places = join_tokens(words[begin:end])
        mentions = {
            (a - begin, b - begin): cluster
            for cluster, members in enumerate(document.clusters)
            for a, b in members
            if begin <= a and b < end
        }
        found.append(Passage(document.name, number, text, tuple(places), mentions))
    return found


def chosen(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many items, the same whatever their order."""
    if len(items) <= most:
        return list(items)
    first = sorted(items, key=lambda item: hashlib.sha256(item.id.encode()).digest())[:most]
    ids = {item.id for item in first}
    return [item for item in items if item.id in ids]


# --- Coreference --------------------------------------------------------------------------------------------------


def coreference_items(documents: Iterable[CorefDocument], most_words: int) -> Iterator[Item]:
    """Of every mention with an antecedent in its passage two pairs: with the nearest, answer 1, and with an earlier
    mention of another cluster, answer 0. The mentions of a pair do not overlap. Reads the first and the last token of
    the earlier and of the later one."""
    for document in documents:
        for passage in passages_of(without_singletons(document), most_words):
            draw = passage.draw("coreference")
            mentions = sorted(passage.mentions.items())
            for place, (mention, cluster) in enumerate(mentions):
                earlier = [(span, own) for span, own in mentions[:place] if span[1] < mention[0]]
                same = [span for span, own in earlier if own == cluster]
                other = [span for span, own in earlier if own != cluster]
                if same and other:
                    pairs = ((same[-1], 1), (other[draw.integers(len(other))], 0))
                    for span, answer in pairs:
                        reads = (*passage.ends(*span), *passage.ends(*mention))
                        name = passage.id(span, mention)
                        yield Item(name, document.group, passage.text, reads, (answer,))


GAP_ANSWERS = ("A", "B", "neither")


def gap_items(examples: Iterable[GapExample]) -> Iterator[Item]:
    """Of every example one item. Reads the first and the last token of A and of the pronoun, then of B and of the
    pronoun."""
    for example in examples:
        pronoun = (example.pronoun_start, example.pronoun_start + len(example.pronoun) - 1)
        a, b = (
            (start, start + len(name) - 1)
            for name, start in ((example.a, example.a_start), (example.b, example.b_start))
        )
        answer = (GAP_ANSWERS.index(example.label),)
        yield Item(
            example.id, example.url, example.text, (*a, *pronoun, *b, *pronoun), answer, example.gender
        )


# --- Mentions and relations ---------------------------------------------------------------------------------------


def mention_items(documents: Iterable[CorefDocument], most_words: int) -> Iterator[Item]:
    """Every mention, answer 1, and for each two spans that are none, answer 0: one that begins or ends up to two words
    beside it, and one of as many words elsewhere in its passage."""
    for document in documents:
        for passage in passages_of(document, most_words):
            draw = passage.draw("mentions")
            count = len(passage.words)
            spans = {span: 1 for span in sorted(passage.mentions) if span[1] - span[0] < MOST_WORDS}
            for first, last in list(spans):
                begin, shift = draw.integers(2), int(draw.choice([-2, -1, 1, 2]))
                near = (first + shift, last) if begin else (first, last + shift)
                start = int(draw.integers(count - (last - first)))
                for span in (near, (start, start + last - first)):
                    if 0 <= span[0] <= span[1] < count and span not in passage.mentions:
                        spans.setdefault(span, 0)
            for span, answer in spans.items():
                if span[1] - span[0] < MOST_WORDS:
                    name = passage.id(span)
                    yield Item(name, document.group, passage.text, passage.ends(*span), (answer,))


def relation_items(relations: Iterable[tuple[str, Relation]], labels: Sequence[str]) -> Iterator[Item]:
    """Reads the first and the last token of head and tail. relations: with a word that makes ids of several files
    differ."""
    number = {label: place for place, label in enumerate(labels)}
    for part, relation in relations:
        reads = (relation.head[0], relation.head[1] - 1, relation.tail[0], relation.tail[1] - 1)
        yield Item(f"{part}{relation.id}", relation.group, relation.text, reads, (number[relation.label],))


# --- Span boundaries ----------------------------------------------------------------------------------------------


def _boundaries(documents: Iterable[CorefDocument], most_words: int) -> Iterator[tuple[Item, list[str]]]:
    """Spans drawn at random, with their words. Reads the last token before the span and the first behind it, of a text
    in which nothing is masked: what their states tell of the span, the encoder has seen. No answer yet."""
    for document in documents:
        words = document.words
        begin = 0
        for passage in passages_of(document, most_words):
            draw = passage.draw("boundaries")
            count = len(passage.words)
            spans = {}
            for _ in range(count // _WORDS_OF_A_SPAN):
                length = min(int(draw.geometric(_LENGTH_LAW)), MOST_WORDS)
                if length <= count - 2:
                    first = int(draw.integers(1, count - length))
                    spans[first, first + length - 1] = None
            for first, last in spans:
                reads = (passage.words[first - 1][1] - 1, passage.words[last + 1][0])
                item = Item(passage.id((first, last)), document.group, passage.text, reads, ())
                yield item, words[begin + first : begin + last + 1]
            begin += count


def length_items(documents: Iterable[CorefDocument], most_words: int) -> Iterator[Item]:
    """The answer is the number of words less one."""
    for item, words in _boundaries(documents, most_words):
        yield replace(item, answer=(len(words) - 1,))


def known_words(documents: Iterable[CorefDocument]) -> list[str]:
    """The most frequent words."""
    counts = Counter(
        word.lower() for document in documents for word in document.words if any(map(str.isalpha, word))
    )
    return sorted(counts, key=lambda word: (-counts[word], word))[:KNOWN_WORDS]


def word_items(documents: Iterable[CorefDocument], known: Sequence[str], most_words: int) -> Iterator[Item]:
    """The answers are places among the known words; spans without any are left out."""
    number = {word: place for place, word in enumerate(known)}
    for item, words in _boundaries(documents, most_words):
        answer = sorted({number[word.lower()] for word in words if word.lower() in number})
        if answer:
            yield replace(item, answer=tuple(answer))
