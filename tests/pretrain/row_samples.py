# SPDX-License-Identifier: Apache-2.0
"""Tokenised documents whose every token is known, and the rows of them."""

from __future__ import annotations

import numpy as np
import pytest
from datasets import Dataset, Features, disable_caching, enable_caching
from tiny_models import tiny_tokenizer

from spanbert_ext.pretrain.rows.blocks import build_blocks
from spanbert_ext.pretrain.rows.pairs import build_pairs
from spanbert_ext.pretrain.rows.rows import Rows
from spanbert_ext.pretrain.rows.token_documents import CANDIDATES, COLUMNS, TokenDocuments, tokenize_documents


@pytest.fixture(autouse=True, scope="module")
def tables_in_memory():
    """The datasets library writes none of a module's tables to the disk."""
    disable_caching()
    yield
    enable_caching()


FIRST = 5  # the first id that is no special one of tiny_tokenizer


def token_table(sentence_lengths: list[list[int]], candidates: list[list[int]] | None = None) -> Dataset:
    """Token k of document d is FIRST + (10 d + k) % 28; document d has the digest 1000 - d."""
    columns = {
        "tokens": [
            [FIRST + (10 * number + k) % 28 for k in range(sum(lengths))]
            for number, lengths in enumerate(sentence_lengths)
        ],
        "sentence_lengths": sentence_lengths,
        "digest": [1000 - number for number in range(len(sentence_lengths))],
    }
    if candidates is not None:
        columns["candidates"] = candidates
    return Dataset.from_dict(columns, features=Features(COLUMNS | (CANDIDATES if candidates else {})))


def token_documents(
    sentence_lengths: list[list[int]], candidates: list[list[int]] | None = None
) -> TokenDocuments:
    return TokenDocuments(token_table(sentence_lengths, candidates))


def made_rows(documents: TokenDocuments, size: int, rule: str | None = None, **options) -> Rows:
    """Blocks, or with a rule pairs, of all documents."""
    numbers = np.arange(len(documents))
    if rule is None:
        return Rows(documents, build_blocks(documents, numbers, size), tiny_tokenizer())
    return Rows(documents, build_pairs(documents, numbers, size, rule, **options), tiny_tokenizer())


def block_rows(texts: Dataset, tokenizer, size: int) -> Rows:
    documents = TokenDocuments(tokenize_documents(texts, tokenizer))
    return Rows(documents, build_blocks(documents, np.arange(len(documents)), size), tokenizer)
