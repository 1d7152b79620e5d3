# SPDX-License-Identifier: Apache-2.0
"""The column of pairs: both its names, what it may hold, and what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import one_thread, tiny_tokenizer  # noqa: F401

from spanbert_ext import DataCollatorForSpanMasking

NAMES = ("is_random_next", "next_sentence_label")


@pytest.fixture(scope="module")
def collator():
    return DataCollatorForSpanMasking(tiny_tokenizer(), epoch=0)


def rows(values, name: str) -> list[dict]:
    pairs = [("the small cat sees", "a dog"), ("a bird", "the old house likes the river"), ("a", "fish")]
    return [dict(tiny_tokenizer()(*pair)) | {name: value} for pair, value in zip(pairs, values, strict=True)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "values",
    [
        [1, 0, -100],
        list(np.array([1, 0, -100])),
        list(torch.tensor([1, 0, -100])),
        list(torch.tensor([1, 0, -100], dtype=torch.int8)),
    ],
    ids=["numbers", "arrays", "tensors", "int8"],
)
def test_it_becomes_is_random_next(collator, name, values):
    batch = collator(rows(values, name))
    assert batch["is_random_next"].dtype == torch.int64 and batch["is_random_next"].tolist() == [1, 0, -100]
    assert "next_sentence_label" not in batch
    plain = collator([{key: x for key, x in row.items() if key != name} for row in rows(values, name)])
    for key, value in plain.items():  # the masks know nothing of it
        assert torch.equal(batch[key], value) if isinstance(value, torch.Tensor) else batch[key] == value
    array = collator(rows(values, name), return_tensors="np")["is_random_next"]
    assert isinstance(array, np.ndarray) and array.dtype == np.int64 and array.tolist() == [1, 0, -100]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [list, lambda x: list(np.array(x)), lambda x: list(torch.tensor(x))])
def test_bools(collator, name, make):
    found = collator(rows(make([True, False, True]), name))["is_random_next"]
    assert found.dtype == torch.int64 and found.tolist() == [1, 0, 1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (
            [1, 0, 2],
            ValueError,
            r"example 2: {} is 2; expected 1 \(random\), 0 \(continues\) or a negative one",
        ),
        ([1, 0.0, 1], TypeError, "{}.*expected integers, 1"),
        ([1, "0", 1], TypeError, "{}"),
        ([[1], [0], [1]], ValueError, r"example 0: {} has shape \[1\]; expected one number"),
    ],
)
def test_what_is_refused(collator, name, values, error, message):
    with pytest.raises(error, match=message.format(name)):
        collator(rows(values, name))


def test_both_names(collator):
    both = [row | {"next_sentence_label": 1} for row in rows([1, 0, 1], "is_random_next")]
    with pytest.raises(ValueError, match="columns 'is_random_next' and 'next_sentence_label': give one"):
        collator(both)
