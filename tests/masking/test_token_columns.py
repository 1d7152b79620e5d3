# SPDX-License-Identifier: Apache-2.0
"""RoCBert's columns beside the ids: what stands in a batch does not tell which token was masked."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_models import VOCABULARY, one_thread, tiny_texts, tiny_tokenizer  # noqa: F401
from transformers import RoCBertTokenizer

from spanbert_ext import DataCollatorForSpanMasking

COLUMNS = ("input_shape_ids", "input_pronunciation_ids")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> RoCBertTokenizer:
    """Each token has a shape and a pronunciation of its own; one of them is known as [UNK] alone."""
    folder = tmp_path_factory.mktemp("roc_bert")
    shapes = {token: 100 + id for token, id in VOCABULARY.items() if token != "."}
    maps = {"shape.json": shapes, "sound.json": {token: 500 - id for token, id in VOCABULARY.items()}}
    for name, known in maps.items():
        (folder / name).write_text(json.dumps(known), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    return RoCBertTokenizer(*(str(folder / name) for name in ("vocab.txt", *maps)))


@pytest.fixture(scope="module")
def rows(tokenizer) -> list[dict]:
    return [dict(tokenizer(text)) for text in tiny_texts(40)]


def of_tokens(tokenizer, ids: torch.Tensor) -> list[list[int]]:
    tokens = tokenizer.convert_ids_to_tokens(ids.tolist())
    return [
        tokenizer.convert_tokens_to_shape_ids(tokens),
        tokenizer.convert_tokens_to_pronunciation_ids(tokens),
    ]


def test_the_rows_have_the_columns(tokenizer, rows):
    """What the others rest on: such a column tells the token."""
    ids, shapes, sounds = (torch.tensor(rows[0][name]) for name in ("input_ids", *COLUMNS))
    assert of_tokens(tokenizer, ids[1:-1]) == [shapes[1:-1].tolist(), sounds[1:-1].tolist()]
    assert torch.equal(sounds[1:-1], 500 - ids[1:-1])


@pytest.mark.parametrize("form", ["lists", "tensors"])
def test_masked_tokens_are_not_told(tokenizer, rows, form):
    """[MASK], a random token and one that is kept each have the numbers of what stands there."""
    if form == "tensors":
        rows = [{name: torch.tensor(value) for name, value in row.items()} for row in rows]
    options = {"mask_replace_prob": 0.4, "random_replace_prob": 0.3, "ratio": 0.5, "epoch": 1}
    batch = DataCollatorForSpanMasking(tokenizer, **options)(rows)
    masked = batch["labels"] >= 0
    there, labels = batch["input_ids"][masked], batch["labels"][masked]
    kept, hidden = there == labels, there == tokenizer.mask_token_id
    assert min(int(kept.sum()), int(hidden.sum()), int((~kept & ~hidden).sum())) > 20
    assert [batch[name][masked].tolist() for name in COLUMNS] == of_tokens(tokenizer, there)
    for name in COLUMNS:
        assert len(batch[name][masked][hidden].unique()) == 1  # for every original token


def test_other_positions_stay_and_the_rows_too(tokenizer, rows):
    before = json.dumps(rows)
    batch = DataCollatorForSpanMasking(tokenizer, epoch=0, pad_to_multiple_of=64)(rows)
    assert json.dumps(rows) == before
    expected = tokenizer.pad(rows, pad_to_multiple_of=64, return_tensors="pt")
    masked = batch["labels"] >= 0
    for name in COLUMNS:
        assert batch[name].shape == (40, 64) and batch[name].dtype == torch.int64
        assert torch.equal(batch[name][~masked], expected[name][~masked])


def test_one_column_and_arrays(tokenizer, rows):
    one = [{name: row[name] for name in ("input_ids", "input_shape_ids")} for row in rows]
    collator = DataCollatorForSpanMasking(tokenizer, epoch=0)
    batch = collator(one, return_tensors="np")
    assert isinstance(batch["input_shape_ids"], np.ndarray) and "input_pronunciation_ids" not in batch
    assert (batch["input_shape_ids"] == collator(rows)["input_shape_ids"].numpy()).all()


def test_nothing_is_masked(tokenizer):
    row = dict(tokenizer(""))
    batch = DataCollatorForSpanMasking(tokenizer)([row])
    assert batch["input_shape_ids"].tolist() == [row["input_shape_ids"]]


def test_a_tokenizer_that_cannot_make_them(rows):
    with pytest.raises(
        ValueError, match=r"columns \['input_shape_ids', 'input_pro.*remove_columns\(\['input_sh"
    ):
        DataCollatorForSpanMasking(tiny_tokenizer())(rows)


def test_bad_columns(tokenizer, rows):
    collator = DataCollatorForSpanMasking(tokenizer)
    with pytest.raises(ValueError, match="'input_shape_ids' of example 1 has 2 entries"):
        collator([rows[0], rows[1] | {"input_shape_ids": [1, 2]}])
    with pytest.raises(
        TypeError, match=r"example 1: input_shape_ids\[0\] is 0\.5 \(float\); expected integers"
    ):
        collator([rows[0], rows[1] | {"input_shape_ids": [0.5] * len(rows[1]["input_ids"])}])
