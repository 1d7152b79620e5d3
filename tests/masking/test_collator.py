# SPDX-License-Identifier: Apache-2.0
"""The collator: the batches that it makes of rows, and where words begin."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from collator_samples import TENSORS, rectangle
from tiny_models import VOCABULARY, one_thread, same, tiny_texts, tiny_tokenizer  # noqa: F401

from spanbert_ext import DataCollatorForSpanMasking, token_kinds_from_word_ids
from spanbert_ext.masking.masker import SpanMasker


def originals(batch: dict) -> torch.Tensor:
    return torch.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"])


class TestBatches:
    def test_lists_arrays_and_tensors_make_the_same_batch(self, tokenizer):
        ids = rectangle()
        collator = DataCollatorForSpanMasking(tokenizer, epoch=3)
        forms = {
            "lists": [{"input_ids": row.tolist()} for row in ids],
            "arrays": [{"input_ids": row.numpy().astype(np.int32)} for row in ids],
            "tensors": [{"input_ids": row} for row in ids],
            "bare": [row.tolist() for row in ids],
        }
        batches = {name: collator(rows) for name, rows in forms.items()}
        assert set(batches["lists"]) == {*TENSORS, "all_text"}
        assert all(batches["lists"][name].dtype == torch.int64 for name in TENSORS)
        for name, batch in batches.items():
            assert same(batch, batches["lists"]), name

    def test_the_masks_are_the_maskers(self, tokenizer):
        ids = rectangle()
        batch = DataCollatorForSpanMasking(tokenizer, seed=7, epoch=3)(list(ids))
        masked = SpanMasker.from_tokenizer(tokenizer)(ids, torch.ones_like(ids), seed=7, epoch=3)
        assert all(torch.equal(batch[name], value) for name, value in masked.as_dict().items())
        assert (batch["labels"] >= 0).sum(1).tolist() == [3] * 8  # ceil(0.15 * 18)

    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize("kind", ["lists", "arrays", "tensors"])
    def test_ragged_rows_are_padded(self, rows, side, kind):
        tokenizer = tiny_tokenizer(padding_side=side)
        make = {"lists": list, "arrays": np.array, "tensors": torch.tensor}[kind]
        features = [{name: make(value) for name, value in row.items()} for row in rows]
        batch = DataCollatorForSpanMasking(tokenizer, epoch=0, pad_to_multiple_of=16)(features)
        expected = tokenizer.pad(rows, pad_to_multiple_of=16, return_tensors="pt")
        assert batch["input_ids"].shape == expected["input_ids"].shape == (40, 32)
        assert torch.equal(originals(batch), expected["input_ids"])
        assert torch.equal(batch["attention_mask"], expected["attention_mask"])
        assert torch.equal(batch["token_type_ids"], expected["token_type_ids"])
        assert not (batch["labels"] >= 0)[expected["attention_mask"] == 0].any()
        assert batch["masked_positions"].max() < 32

    def test_padding_does_not_change_a_rows_mask(self, tokenizer, rows):
        collator = DataCollatorForSpanMasking(tokenizer, epoch=5)
        together = collator(rows)
        for index, row in enumerate(rows):
            alone = collator([row])
            length = len(row["input_ids"])
            assert torch.equal(together["input_ids"][index, :length], alone["input_ids"][0])

    def test_the_callers_rows_are_not_changed(self, tokenizer):
        for features in (
            [{"input_ids": row.numpy()} for row in rectangle()],
            [{"input_ids": rectangle()[0]}],
        ):
            before = copy.deepcopy(features)
            DataCollatorForSpanMasking(tokenizer, ratio=1.0)(features)
            for row, kept in zip(features, before, strict=True):
                assert (row["input_ids"] == kept["input_ids"]).all()

    def test_other_columns_pass_through(self, tokenizer, rows):
        extra = [
            {**row, "score": 0.5 * i, "label": i, "bag": list(range(1 + i % 3)), "name": f"row {i}"}
            for i, row in enumerate(rows)
        ]
        batch = DataCollatorForSpanMasking(tokenizer)(extra)
        assert batch["score"].dtype == torch.float32 and batch["score"][3] == 1.5
        assert batch["label"].tolist() == list(range(40))
        assert batch["bag"].shape == (40, 3) and batch["bag"][1].tolist() == [0, 1, 0]
        assert batch["name"][2] == "row 2"

    def test_an_attention_mask_of_the_dataset_is_kept(self, tokenizer):
        ids = rectangle()
        attention = torch.ones_like(ids)
        attention[:, 10:] = 0
        batch = DataCollatorForSpanMasking(tokenizer, ratio=1.0)(
            [{"input_ids": i, "attention_mask": a} for i, a in zip(ids, attention, strict=True)]
        )
        assert torch.equal(batch["attention_mask"], attention)
        assert ((batch["labels"] >= 0) == (attention.bool() & (ids != VOCABULARY["[CLS]"]))).all()

    def test_numpy_and_the_stock_collators_arguments(self, tokenizer, rows):
        options = {"tokenizer": tokenizer, "mlm": True, "mlm_probability": 0.4, "return_tensors": "np"}
        batch = DataCollatorForSpanMasking(**options)(rows)
        assert all(isinstance(batch[name], np.ndarray) for name in TENSORS)
        masked, maskable = (batch["labels"] >= 0).sum(1), batch["attention_mask"].sum(1) - 2
        assert (masked == np.ceil(0.4 * maskable)).all()
        assert isinstance(
            DataCollatorForSpanMasking(tokenizer)(rows, return_tensors="np")["labels"], np.ndarray
        )


class TestKinds:
    def test_kinds_from_word_ids(self):
        kinds = token_kinds_from_word_ids([None, 0, 1, 1, 1, 2, None, 0, 0, None])
        assert kinds.dtype == np.uint8 and kinds.tolist() == [2, 1, 1, 0, 0, 1, 2, 1, 0, 2]
        assert token_kinds_from_word_ids([]).shape == (0,)

    def test_words_mode_agrees_with_explicit_kinds_however_they_come(self, tokenizer):
        texts = tiny_texts(30, seed=3)
        encodings = [tokenizer(text) for text in texts]
        words = DataCollatorForSpanMasking(tokenizer, kinds="words", epoch=1)
        from_encodings = words(encodings)
        word_ids = [{**dict(encoding), "word_ids": encoding.word_ids()} for encoding in encodings]
        kinds = [
            {**dict(encoding), "token_kinds": token_kinds_from_word_ids(encoding.word_ids())}
            for encoding in encodings
        ]
        assert same(from_encodings, words(word_ids))
        assert same(from_encodings, DataCollatorForSpanMasking(tokenizer, epoch=1)(kinds))
        # for this tokenizer the prefix rule is exact, so nothing may differ from it either
        assert same(
            from_encodings, DataCollatorForSpanMasking(tokenizer, epoch=1)([dict(e) for e in encodings])
        )

    def test_explicit_kinds_replace_the_prefixes(self, tokenizer):
        ids = rectangle(64, 42)  # no continuation pieces: every token is a word
        kinds = torch.tensor([2] + [1] + [0] * 39 + [2], dtype=torch.uint8)  # one word of 40 tokens
        batch = DataCollatorForSpanMasking(tokenizer, epoch=0)(
            [{"input_ids": i, "token_kinds": kinds} for i in ids]
        )
        # every span starts at the only word start, so the budget of 6 tokens always lies at positions 1 ... 6
        assert batch["masked_positions"].tolist() == [[1, 2, 3, 4, 5, 6, -1]] * 64
        assert "token_kinds" not in batch

    def test_special_tokens_mask_forbids(self, tokenizer):
        ids = rectangle(64)
        special = torch.zeros_like(ids)
        special[:, 5:15] = 1
        features = [
            {"input_ids": i, "special_tokens_mask": s.tolist()} for i, s in zip(ids, special, strict=True)
        ]
        batch = DataCollatorForSpanMasking(tokenizer, ratio=1.0)(features)
        assert not (batch["labels"] >= 0)[:, 5:15].any()
        assert not (batch["labels"] >= 0)[:, [0, 19]].any()  # [CLS] and [SEP] stay special
        assert (batch["labels"] >= 0)[:, [*range(1, 5), *range(15, 19)]].all()
        assert "special_tokens_mask" not in batch

    @pytest.mark.parametrize("side", ["right", "left"])
    def test_candidates_are_masked_first(self, rows, side):
        tokenizer = tiny_tokenizer(padding_side=side)
        rows = [
            {"input_ids": row["input_ids"], "candidates": [[2, 3], [4, 5]][: 1 + i % 2]}
            for i, row in enumerate(rows)
        ]
        batch = DataCollatorForSpanMasking(tokenizer, epoch=0, mask_share=1.0, random_share=0.0)(rows)
        for i, row in enumerate(rows):
            length = len(row["input_ids"])
            shift = batch["input_ids"].shape[1] - length if side == "left" else 0
            assert batch["labels"][i, shift + 2] >= 0 or (i % 2 and batch["labels"][i, shift + 4] >= 0)
        assert "candidates" not in batch

    def test_words_mode_without_words_says_what_to_do(self, tokenizer, rows):
        with pytest.raises(ValueError, match=r"example 0 has neither.*token_kinds_from_word_ids"):
            DataCollatorForSpanMasking(tokenizer, kinds="words")(rows)
