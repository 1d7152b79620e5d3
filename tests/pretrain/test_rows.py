# SPDX-License-Identifier: Apache-2.0
"""Rows made of token ranges: blocks and pairs, their names, candidates and counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("datasets")

from row_samples import FIRST, made_rows, token_documents
from tiny_models import VOCABULARY, tiny_tokenizer

from spanbert_ext import DataCollatorForSpanMasking
from spanbert_ext.pretrain.rows.blocks import sample_id
from spanbert_ext.pretrain.rows.rows import Rows

CLS, SEP = VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]
LENGTHS = [[3, 2, 4], [8], [1, 1]]


def test_blocks_by_hand():
    rows = made_rows(token_documents(LENGTHS), 7)
    made = [row["input_ids"].tolist() for row in rows]
    d0, d1, d2 = FIRST, FIRST + 10, FIRST + 20  # the documents' first tokens
    assert made == [
        [CLS, *range(d0, d0 + 5), SEP],
        [CLS, *range(d0 + 5, d0 + 9), SEP],
        [CLS, *range(d1, d1 + 5), SEP],
        [CLS, *range(d1 + 5, d1 + 8), SEP],
        [CLS, *range(d2, d2 + 2), SEP],
    ]
    assert rows.lengths.tolist() == [7, 6, 7, 5, 4] and len(rows) == 5
    assert [row["sample_ids"] for row in rows] == [
        sample_id(digest, number) for digest, number in ((1000, 0), (1000, 1), (999, 0), (999, 1), (998, 0))
    ]
    assert rows[-1]["input_ids"].tolist() == made[-1] and rows[np.int64(1)].keys() == {
        "input_ids",
        "sample_ids",
    }


def test_names_of_rows_never_change():
    assert sample_id(-5, 3) == -5087649537783908530  # what runs so far have called a block
    assert sample_id(7, 0, 1) == -5274162512440793328
    rows = made_rows(token_documents([[4, 4, 4]] * 30), 14, "google", copies=3)
    assert len({row["sample_ids"] for row in rows}) == len(rows)


def test_pairs_have_token_types_and_a_label():
    rows = made_rows(token_documents([[3, 2, 4], [8, 2], [1, 1]]), 12, "google")
    for row, entry in zip(rows, rows.index, strict=True):
        a = rows.documents.tokens[int(entry["document"])][entry["start"] : entry["end"]]
        b = rows.documents.tokens[int(entry["other"])][entry["next_start"] : entry["next_end"]]
        assert row["input_ids"].tolist() == [CLS, *a, SEP, *b, SEP]
        assert row["token_type_ids"].tolist() == [0] * (len(a) + 2) + [1] * (len(b) + 1)
        assert row["next_sentence_label"] == entry["is_random"]
    assert rows.lengths.tolist() == [len(row["input_ids"]) for row in rows] and rows.lengths.max() <= 12


def test_candidates_are_those_whole_in_a_row():
    spans = [[0, 2, 2, 3, 4, 7, 8, 9], [], [0, 2]]
    rows = made_rows(token_documents(LENGTHS, spans), 7)
    assert [row["candidates"].tolist() for row in rows] == [
        [[1, 3], [3, 4]],  # [4, 7) is cut by the block's end
        [[4, 5]],
        [],
        [],
        [[1, 3]],
    ]
    pairs = made_rows(token_documents([[9], [9]], [[0, 2, 5, 9], [1, 9]]), 21, "google")
    first, second = (
        row["candidates"].tolist() for row in pairs
    )  # of one sentence each: B is the other document
    assert first == [[1, 3], [6, 10], [12, 20]] and second == [[2, 10], [11, 13], [16, 20]]
    for (start, end), row in ((span, pairs[0]) for span in first):
        assert not {CLS, SEP} & set(row["input_ids"][start:end].tolist())


def test_the_collator_reads_what_rows_are():
    collator = DataCollatorForSpanMasking(tiny_tokenizer(), ratio=0.3, epoch=0)
    documents = token_documents([[6, 5, 7], [8, 9], [3, 3, 9]], [[0, 2, 3, 6], [1, 9], [4, 5]])
    for rule in (None, "spanbert"):
        rows = made_rows(documents, 16, rule)
        batch = collator(rows.__getitems__(range(len(rows))))
        original = torch.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"])
        for row, ids in zip(rows, original, strict=True):
            assert ids[: len(row["input_ids"])].tolist() == row["input_ids"].tolist()
        assert ("token_type_ids" in batch) == (rule is not None)


@pytest.mark.parametrize("rule", [None, "google", "spanbert"])
def test_counts_are_those_of_the_rows(rule, monkeypatch):
    documents = token_documents([[6, 5, 7], [8, 9], [3, 3, 9], [30]])
    rows = made_rows(documents, 16, rule)
    expected = np.bincount(np.concatenate([row["input_ids"] for row in rows]), minlength=40)
    expected[[VOCABULARY[f"[{name}]"] for name in ("CLS", "SEP", "PAD", "MASK")]] = 0
    assert rows.unigram_counts(40).tolist() == expected.tolist() and expected.sum() > 60
    monkeypatch.setattr("spanbert_ext.pretrain.rows.rows._COUNTED", 3)
    assert rows.unigram_counts(40).tolist() == expected.tolist()
    half = Rows(documents, rows.index[rows.index["document"] < 2], tiny_tokenizer())  # not all of the table
    assert 0 < half.unigram_counts(40).sum() < expected.sum()
    with pytest.raises(ValueError, match="token id 3.*, the vocabulary has 20 ids"):
        rows.unigram_counts(20)


def test_a_special_token_in_the_text_is_not_counted():
    documents = token_documents([[3]])
    rows = made_rows(documents, 9)
    rows._never_masked.append(FIRST)  # as a [MASK] that was typed
    assert rows.unigram_counts(40).tolist()[FIRST : FIRST + 3] == [0, 1, 1]


@pytest.mark.parametrize("rule", [None, "google"])
def test_no_row_at_all(rule):
    for documents in (token_documents([]), token_documents([[], []])):
        rows = made_rows(documents, 9, rule)
        assert len(rows) == 0 == len(rows.lengths) and not rows.unigram_counts(40).any()


def test_what_is_no_row_is_refused():
    documents = token_documents(LENGTHS)
    rows = made_rows(documents, 7)
    for number in (5, -6):
        with pytest.raises(IndexError):
            rows[number]
    with pytest.raises(TypeError, match="index has the dtype int64; expected that of build_blocks"):
        Rows(documents, np.arange(3), tiny_tokenizer())
