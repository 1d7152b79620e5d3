# SPDX-License-Identifier: Apache-2.0
"""What is held out: documents by hash; passages where documents are too few, too unequal or too short."""

from __future__ import annotations

import pickle

import pytest

pytest.importorskip("datasets")

import numpy as np
from datasets import Dataset, Features, Value, concatenate_datasets
from row_samples import block_rows, tables_in_memory, token_documents, token_table  # noqa: F401
from tiny_models import tiny_tokenizer

from spanbert_ext.pretrain.rows.blocks import build_blocks
from spanbert_ext.pretrain.rows.held_out import passage_spans, split_documents, split_tokenised
from spanbert_ext.pretrain.rows.rows import Rows
from spanbert_ext.pretrain.rows.token_documents import TokenDocuments
from spanbert_ext.pretrain.text.corpus import digest
from spanbert_ext.pretrain.text.text_files import CorpusError

COLUMNS = {"text": Value("large_string"), "source": Value("string"), "digest": Value("int64")}


def table(texts: list[str]) -> Dataset:
    rows = {"text": texts, "source": ["a.txt"] * len(texts), "digest": [digest(text) for text in texts]}
    return Dataset.from_dict(rows, features=Features(COLUMNS))


def sentences(first: int, count: int) -> list[str]:
    return [f"This is sentence number {number}." for number in range(first, first + count)]


def document(first: int, count: int, end: str = " ") -> str:
    return end.join(sentences(first, count))


def characters(texts: list[str]) -> int:
    return sum(len(text) for text in texts)


def test_ordinary_documents_are_held_out_whole():
    texts = [document(100 * number, 10) for number in range(40)]
    split = split_documents(table(texts), 0.2)
    assert split.unit == "documents" and split.rule == "8 of 40 documents, by a hash of their text"
    again = split_documents(table([*reversed(texts), *texts]), 0.2)
    assert len(split.held_out) == 8 and set(again.held_out["text"]) == set(split.held_out["text"])
    assert len(again.held_out) == 16 and not set(again.train["text"]) & set(again.held_out["text"])


@pytest.mark.parametrize("end", [" ", "\n"])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("count", [60, 5_000])
def test_one_document_is_held_out_by_passages(count, share, end):
    whole = document(0, count, end)
    split = split_documents(table([whole]), share)
    assert split.unit == "passages"
    assert f"whole documents would be 100.0% of the text instead of {share:.1%}" in split.rule
    held_out, train = split.held_out["text"], split.train["text"]
    lost = set(sentences(0, count)) ^ {
        s for text in [*held_out, *train] for s in text.replace(". ", ".\n").split("\n")
    }
    assert not lost  # whole sentences, each on one side
    assert characters(held_out) + characters(train) >= 0.95 * len(whole)
    assert share * 0.99 <= characters(held_out) / len(whole) <= share + 2 / 20
    assert not any(text in other for text in held_out for other in train)
    if count == 5_000:
        assert characters(held_out) / len(held_out) == pytest.approx(2_000, rel=0.05)
        if share == 0.01:  # what lies between two passages stays one text
            assert len(train) <= len(held_out) + 1 + len(whole) // 100_000 and max(map(len, train)) > 50_000


def test_passages_do_not_depend_on_the_order_of_documents():
    texts = [document(0, 3_000), document(7_000, 20), "Tiny."]
    splits = [split_documents(table(part), 0.05) for part in (texts, texts[::-1], texts)]
    assert {split.unit for split in splits} == {"passages"}
    for side in ("train", "held_out"):
        parts = [sorted(getattr(split, side)["text"]) for split in splits]
        assert parts[0] == parts[1] == parts[2]


def test_a_document_that_outweighs_the_others_is_divided():
    """Whichever has the smallest hash: the giant would be nearly all of the text, a tiny one nearly nothing."""
    for number in range(6):
        texts = [document(10_000 * number, 3_000), *(f"Tiny {number} {i}." for i in range(3))]
        split = split_documents(table(texts), 0.1)
        assert split.unit == "passages"
        assert 0.1 <= characters(split.held_out["text"]) / characters(texts) < 0.13


def test_equal_documents_and_passages_stay_together():
    giant = document(0, 3_000)
    split = split_documents(table([giant, giant]), 0.1)
    assert split.unit == "passages"
    held_out = list(split.held_out["text"])
    assert len(held_out) == 2 * len(set(held_out)) and not set(held_out) & set(split.train["text"])
    assert not any(text in other for text in set(held_out) for other in split.train["text"])


def test_a_line_without_sentence_ends_is_divided_at_white_space():
    words = " ".join(f"word{number}" for number in range(8_000))
    split = split_documents(table([words]), 0.1)
    assert split.unit == "passages"
    both = " ".join([*split.held_out["text"], *split.train["text"]]).split()
    assert sorted(both) == sorted(words.split())


@pytest.mark.parametrize(
    "texts", [["Alone."], ["Alone.", "Alone."], ["a" * 50_000], ["Ha. " * 20_000 + "Ha."]]
)
def test_what_cannot_be_divided_is_refused(texts):
    with pytest.raises(
        CorpusError, match=rf"{len(texts)} document\(s\) and .* [12] of them different: .* share of 0.1"
    ):
        split_documents(table(texts), 0.1)


def test_a_short_rest_is_part_of_the_last_passage():
    text = document(0, 100)
    for size in (50, 170, 1_000, 2_000):
        spans = list(passage_spans(text, size))
        lengths = [end - start for start, end in spans]
        assert min(lengths) >= size / 2 and max(lengths) < 1.5 * size + 60
        assert " ".join(text[start:end] for start, end in spans) == text
    assert list(passage_spans("", 10)) == [] and list(passage_spans("Hi.", 10)) == [(0, 3)]


def test_no_block_holds_text_of_both_sides(tmp_path):
    from tiny_models import tiny_texts

    tokenizer = tiny_tokenizer()
    whole = " ".join(text.capitalize() for text in tiny_texts(400))
    split = split_documents(table([whole]), 0.1)
    blocks = {side: block_rows(getattr(split, side), tokenizer, 64) for side in ("train", "held_out")}
    for side, rows in blocks.items():
        ids = [token for row in rows for token in row["input_ids"].tolist()[1:-1]]
        texts = getattr(split, side)["text"]
        assert ids == [
            token for text in texts for token in tokenizer(text, add_special_tokens=False).input_ids
        ]
    samples = [{row["sample_ids"] for row in rows} for rows in blocks.values()]
    assert not samples[0] & samples[1]
    assert blocks["train"].lengths.mean() > 42


def test_tokenised_documents_are_held_out_as_their_texts_are():
    documents = token_documents([[4, 6]] * 40)
    split = split_tokenised(documents, 0.2)
    assert (split.unit, split.rule) == ("documents", "8 of 40 documents, by a hash of their text")
    assert split.documents is documents
    assert sorted([*split.train, *split.held_out]) == list(range(40)) and len(split.held_out) == 8
    assert documents.digests[split.held_out].max() < documents.digests[split.train].min()


def uneven(documents: list[int], seed: int = 0) -> list[list[int]]:
    """Lengths of sentences of 1 to 40 tokens, in documents of so many sentences."""
    draws = np.random.default_rng(seed)
    return [draws.integers(1, 41, size=count).tolist() for count in documents]


def tokens_of(documents: TokenDocuments) -> list[list[int]]:
    return [documents.tokens[number].tolist() for number in range(len(documents))]


@pytest.mark.parametrize("counts", [[3_000], [2_000, *[1] * 9], [400], [1_000, 1_000, 5], [900, 0, 3, 0]])
@pytest.mark.parametrize("share", [0.02, 0.2])
def test_tokenised_documents_are_divided_into_passages(counts, share):
    """A single one, one that outweighs the others, a small one, few, some without tokens: each token is on one side,
    in its place, and sentences are whole."""
    lengths = uneven(counts)
    documents = token_documents(lengths)
    split = split_tokenised(documents, share)
    made = split.documents
    assert split.unit == "passages" and split.rule.startswith(f"{len(split.held_out)} of ")
    for name in ("tokens", "sentence_lengths"):
        whole = [x for number in range(len(documents)) for x in getattr(documents, name)[number].tolist()]
        parts = [getattr(made, name)[number] for number in range(len(made))]
        assert [x for part in parts for x in part.tolist()] == whole
        assert getattr(made, name).lengths().tolist() == [len(part) for part in parts]
        assert np.shares_memory(parts[0], getattr(documents, name)[0])
    tokens = made.tokens.lengths()
    assert [made.sentence_lengths[n].sum() for n in range(len(made))] == tokens.tolist()
    total, held_out = tokens.sum(), tokens[split.held_out]
    assert share * total <= held_out.sum() <= share * total + held_out.max()
    assert held_out.max() <= 2 * 512 and sorted([*split.train, *split.held_out]) == list(range(len(made)))
    ends = np.cumsum([sum(document) for document in lengths]).tolist()
    places = np.cumsum(tokens).tolist()
    assert set(ends) <= {0, *places}  # no part is of two documents
    both = set(split.train.tolist()) & {number + 1 for number in split.train.tolist()}
    assert all(places[number - 1] in ends for number in both)  # what lies between two passages is one text


def test_passages_of_tokens_have_names_of_their_content():
    """Whatever the order of the documents; equal ones are on one side; no two rows have the same masks."""
    giants = uneven([1_500, 1_500, 1_000])
    splits = []
    for order in ([0, 1, 2], [2, 0, 1], [0, 1, 2, 0]):
        table = token_table([giants[number] for number in order])
        tokens = [
            np.random.default_rng(number).integers(5, 33, sum(giants[number])).tolist() for number in order
        ]
        table = Dataset.from_dict(table.to_dict() | {"tokens": tokens}, features=table.features)
        splits.append(split_tokenised(TokenDocuments(table), 0.05))

    def side(split, name: str) -> list[str]:
        tokens = tokens_of(split.documents)
        return sorted(" ".join(map(str, tokens[number])) for number in getattr(split, name))

    assert side(splits[0], "held_out") == side(splits[1], "held_out")
    assert side(splits[0], "train") == side(splits[1], "train")
    held_out, train = side(splits[2], "held_out"), side(splits[2], "train")
    assert not any(text in other for text in held_out for other in train)
    documents, numbers = splits[0].documents, splits[0].train
    assert len(set(documents.digests.tolist())) == len(documents)
    rows = Rows(documents, build_blocks(documents, numbers, 64), tiny_tokenizer())
    assert len({row["sample_ids"] for row in rows}) == len(rows)
    counts = np.bincount(np.concatenate([row["input_ids"] for row in rows]), minlength=33)
    assert rows.unigram_counts(33)[5:].tolist() == counts[5:].tolist()


def test_phrases_follow_their_passage():
    lengths = uneven([300, 200, 5])
    phrases = []
    for document in lengths:  # the end of every second sentence
        ends = np.cumsum(document).tolist()
        spans = [(end - 2, end) for n, end in enumerate(ends) if n % 2 and document[n] > 1]
        phrases.append([x for span in spans for x in span])
    documents = token_documents(lengths, phrases)
    split = split_tokenised(documents, 0.1)
    made = pickle.loads(pickle.dumps(split.documents))  # as for another process
    assert made.fingerprint == split.documents.fingerprint != documents.fingerprint

    def words(table: TokenDocuments) -> list[list[int]]:
        return [
            table.tokens[number][start:end].tolist()
            for number in range(len(table))
            for start, end in table.candidates[number].reshape(-1, 2)
        ]

    assert len(words(made)) > 100 and words(made) == words(documents)


def test_passages_over_several_stretches_of_memory():
    tables = [token_table(uneven(counts, seed)) for seed, counts in enumerate([[400, 3], [5], [600]])]
    documents = TokenDocuments(concatenate_datasets(tables))
    split = split_tokenised(documents, 0.1)
    assert len(list(split.documents.tokens.chunks())) == 3 and split.unit == "passages"
    assert sum(tokens_of(split.documents), []) == sum(tokens_of(documents), [])


@pytest.mark.parametrize("lengths", [[[5]], [[500], *([[1]] * 9)]])
def test_tokenised_sentences_are_not_divided(lengths):
    """A single one; one that outweighs the others."""
    with pytest.raises(CorpusError, match=rf"has {len(lengths)} document\(s\) and .* too little for"):
        split_tokenised(token_documents(lengths), 0.1)
