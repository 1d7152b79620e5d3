# SPDX-License-Identifier: Apache-2.0
"""Tokenised documents: what a text becomes, phrases as token spans, and access to the table's own memory."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("datasets")

from datasets import Dataset, concatenate_datasets
from row_samples import tables_in_memory, token_documents, token_table  # noqa: F401
from tiny_models import VOCABULARY, tiny_texts, tiny_tokenizer
from transformers import BertTokenizerFast

from spanbert_ext.pretrain.rows.token_documents import TokenDocuments, encode, token_spans, tokenize_documents
from spanbert_ext.pretrain.text.corpus import digest
from spanbert_ext.pretrain.text.sentences import split_sentences


def table(texts: list[str]) -> Dataset:
    return Dataset.from_dict({"text": texts, "digest": [digest(text) for text in texts]})


def capitals(sentence: str) -> list[tuple[int, int]]:
    """A phrase finder: words that begin with a capital, after the first one."""
    starts = [i for i, c in enumerate(sentence) if i and c.isupper() and sentence[i - 1] == " "]
    return [(start, min(x for x in (sentence.find(" ", start), len(sentence)) if x > 0)) for start in starts]


@pytest.mark.parametrize("workers", [0, 2])
def test_tokens_and_sentences_are_those_of_the_texts(workers):
    tokenizer = tiny_tokenizer()
    texts = [" ".join(t.capitalize() for t in tiny_texts(20, seed)) for seed in range(3)]
    made = tokenize_documents(table(texts), tokenizer, workers)
    for row, text in zip(made, texts, strict=True):
        assert row["tokens"] == tokenizer(text, add_special_tokens=False).input_ids
        sentences = split_sentences(text)
        assert row["sentence_lengths"] == [len(tokenizer.tokenize(sentence)) for sentence in sentences]
        assert len(sentences) >= 20 and row["digest"] == digest(text)


def test_what_has_no_token_is_left_out():
    tokenizer = BertTokenizerFast(vocab=VOCABULARY)  # removes control characters
    made = tokenize_documents(table(["\u0001", "The cat.\n\u0001\nA dog.", "A cat."]), tokenizer)
    assert made["sentence_lengths"][:] == [[3, 3], [3]] and made["digest"][1] == digest("A cat.")


def test_phrases_are_token_spans_of_the_document():
    texts = ["The small Dogs see a Cat. The Unfollowed bird.", "The cat."]
    tokenizer = tiny_tokenizer()
    made = tokenize_documents(table(texts), tokenizer, phrase_finder=capitals)
    assert tokenizer.convert_ids_to_tokens(made["tokens"][0]) == [
        *("the", "small", "dog", "##s", "see", "a", "cat", "."),
        *("the", "un", "[UNK]", "bird", ".")[:1],
        *tokenizer.tokenize("Unfollowed bird."),
    ]
    # "Cat." ends at a white space, so its full stop is in it
    first = len(tokenizer.tokenize("The small Dogs see a Cat. The"))
    assert made["candidates"][0] == [2, 4, 6, 8, first, first + len(tokenizer.tokenize("Unfollowed"))]
    assert made["candidates"][1] == []
    assert "candidates" not in tokenize_documents(table(texts), tokenizer).column_names


def test_token_spans_by_hand():
    offsets = [(0, 3), (4, 7), (7, 9), (10, 11), (12, 15)]
    assert list(token_spans([(0, 3)], offsets)) == [(0, 1)]
    assert list(token_spans([(4, 9)], offsets)) == [(1, 3)]  # a word of two pieces
    assert list(token_spans([(5, 8)], offsets)) == [(1, 3)]  # inside it
    assert list(token_spans([(3, 4), (9, 10)], offsets)) == []  # white space
    assert list(token_spans([(0, 5), (6, 9), (8, 15)], offsets)) == [(0, 2), (2, 3), (3, 5)]  # a token in one


def test_texts_are_tokenized_a_million_characters_at_a_time():
    calls = []

    def tokenizer(texts, **options):
        calls.append(sum(map(len, texts)))
        return {"input_ids": [[len(text)] for text in texts]}

    lengths = [900_000, 90_000, 20_000, 400, 1_200_000, 1]
    made = list(encode(["a" * length for length in lengths], tokenizer))
    assert made == [([length], None) for length in lengths]
    assert calls == [1_010_000, 1_200_400, 1]
    assert list(encode([], tokenizer)) == []


LENGTHS = [[2, 3], [4], [1, 1, 1], [6]]


def test_elements_are_views_across_stretches_of_memory():
    parts = [token_table([lengths]) for lengths in LENGTHS]
    documents = TokenDocuments(concatenate_datasets(parts))
    assert len(documents.dataset.data.column("tokens").chunks) == 4  # so several are crossed
    whole = token_documents(LENGTHS)
    assert documents.tokens.lengths().tolist() == [5, 4, 3, 6]
    assert documents.sentence_lengths.lengths().tolist() == [2, 1, 3, 1]
    for number, lengths in enumerate(LENGTHS):
        assert documents.sentence_lengths[number].tolist() == lengths
        assert whole.sentence_lengths[number].tolist() == lengths
        assert len(whole.tokens[number]) == sum(lengths) and whole.tokens[number].dtype == np.int32
        assert not whole.tokens[number].flags.owndata
    assert whole.tokens[2].base is whole.tokens[0].base or np.shares_memory(
        whole.tokens[2].base, whole.tokens[0].base
    )


def test_a_selection_and_a_pickle_have_the_same_documents():
    picked = TokenDocuments(token_table(LENGTHS).select([3, 0]))
    for documents in (picked, pickle.loads(pickle.dumps(picked))):
        assert documents.digests.tolist() == [997, 1000] and len(documents) == 2
        assert documents.sentence_lengths[0].tolist() == [6]
        assert documents.tokens[1].tolist() == token_documents(LENGTHS).tokens[0].tolist()


def test_another_table_is_refused():
    with pytest.raises(ValueError, match="no digest, sentence_lengths, but tokens"):
        TokenDocuments(Dataset.from_dict({"tokens": [[1]]}))
