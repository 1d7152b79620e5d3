# SPDX-License-Identifier: Apache-2.0
"""The collator's options and columns: what is wrong is refused by name, nothing is rounded; its repr."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from collator_samples import rectangle
from tiny_models import one_thread, tiny_tokenizer  # noqa: F401

from spanbert_ext import DataCollatorForSpanMasking
from spanbert_ext.masking.masker import SpanMasker


class TestBadInput:
    @pytest.mark.parametrize(
        "name",
        [
            *("masked_positions", "left_boundary", "right_boundary"),
            *("max_rows", "max_read_rows", "all_text"),
        ],
    )
    def test_columns_that_the_collator_makes_itself(self, tokenizer, name):
        with pytest.raises(ValueError, match=f"column '{name}'.*remove_columns"):
            DataCollatorForSpanMasking(tokenizer)([{"input_ids": [2, 7, 3], name: [1, 2, 3]}])

    @pytest.mark.parametrize(
        ("features", "error", "message"),
        [
            ([], ValueError, "empty list"),
            ([{"ids": [1]}], ValueError, r"example 0 has no column 'input_ids'.*\['ids'\]"),
            ([{"input_ids": [2, 3]}, {"input_ids": [2, 3], "x": 1}], ValueError, "example 1 has the columns"),
            (
                [{"input_ids": [2, 7, 3], "attention_mask": [1, 1]}],
                ValueError,
                "'attention_mask' of example 0 has 2",
            ),
            ([{"input_ids": 3}], ValueError, "'input_ids' must hold one sequence"),
            (
                [{"input_ids": np.zeros((1, 3), int)}],
                ValueError,
                r"'input_ids' of example 0 has shape \(1, 3\)",
            ),
            ([{"input_ids": [2.0, 7.0, 3.0]}], TypeError, "input_ids must be integers, not torch.float32"),
            ([{"input_ids": ["a", "b"]}], TypeError, "column 'input_ids' cannot become a tensor"),
            ([{"input_ids": [2, 7, 3], "x": [[1], [2, 3]]}], TypeError, "column 'x' cannot become a tensor"),
            ([{"input_ids": [2, 1000, 3]}], IndexError, "input_ids.*1000"),
            ([{"input_ids": [2, -7, 3]}], IndexError, "input_ids.*-7"),
            (
                [{"input_ids": [2, 1000, 3], "special_tokens_mask": [1, 0, 1]}],
                IndexError,
                r"input_ids\[0, 1\] is 1000",
            ),
        ],
    )
    def test_rows(self, tokenizer, features, error, message):
        with pytest.raises(error, match=message):
            DataCollatorForSpanMasking(tokenizer)(features)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"mlm": False}, ValueError, "mlm=False"),
            ({"kinds": "letters"}, ValueError, "'letters'"),
            ({"return_tensors": "tf"}, ValueError, "'tf'"),
            ({"row_bounds": True}, ValueError, "row_bounds must be 'auto' or False, not True"),
            ({"pad_to_multiple_of": 0}, ValueError, "pad_to_multiple_of"),
            ({"epoch": -1}, ValueError, "epoch must be in"),
            ({"epoch": 2**32}, ValueError, "4294967296"),
            ({"epoch": 1.0}, TypeError, r"epoch is 1\.0 \(float\); expected an integer in 0 "),
            ({"epoch": True}, TypeError, r"epoch is True \(bool\)"),
            ({"epoch": torch.ones(2)}, TypeError, "epoch is torch.float32"),
            ({"dupe_factor": -1}, ValueError, "dupe_factor is -1; expected an integer in 0 "),
            ({"dupe_factor": 2**32}, ValueError, "dupe_factor is 4294967296"),
            ({"dupe_factor": 1.0}, TypeError, r"dupe_factor is 1\.0 \(float\); expected an integer"),
            ({"dupe_factor": True}, TypeError, r"dupe_factor is True \(bool\)"),
            ({"epoch": "1"}, TypeError, r"epoch is '1' \(str\)"),
            ({"seed": 0.5}, TypeError, r"seed is 0\.5 \(float\); expected an integer"),
            ({"seed": False}, TypeError, r"seed is False \(bool\)"),
            ({"seed": 2**63}, ValueError, "seed is 9223372036854775808.*int64"),
            ({"pad_to_multiple_of": torch.tensor([8, 8])}, TypeError, "pad_to_multiple_of is torch.int64"),
            ({"pad_to_multiple_of": True}, TypeError, r"pad_to_multiple_of is True \(bool\)"),
            ({"pad_to_multiple_of": 8.0}, TypeError, r"pad_to_multiple_of is 8\.0 \(float\); .* or None"),
            ({"kinds": np.array(["words", "x"])}, ValueError, "kinds is an array of <U5; expected one of"),
            ({"row_bounds": 0}, ValueError, "row_bounds must be 'auto' or False, not 0"),
            ({"mlm": torch.ones(2)}, TypeError, "mlm is torch.float32; expected True or False"),
            (
                {"mlm_probability": "0.15"},
                TypeError,
                r"mlm_probability is '0\.15' \(str\); expected a number",
            ),
            ({"masker": "span"}, TypeError, r"masker is 'span' \(str\); expected a SpanMasker or None"),
            ({"ratio": 1.5}, ValueError, "ratio"),
            ({"unknown": 1}, TypeError, "unknown"),
        ],
    )
    def test_options(self, tokenizer, options, error, message):
        with pytest.raises(error, match=message):
            DataCollatorForSpanMasking(tokenizer, **options)

    def test_masker_and_options(self, tokenizer):
        masker = SpanMasker.from_tokenizer(tokenizer)
        with pytest.raises(TypeError, match=r"not both.*ratio"):
            DataCollatorForSpanMasking(tokenizer, masker=masker, ratio=0.2)

    def test_epochs_that_are_set(self, tokenizer):
        collator = DataCollatorForSpanMasking(tokenizer)
        for method in (collator.set_epoch, collator.evaluation):
            with pytest.raises(ValueError, match="epoch must be in .* not -2"):
                method(-2)
            for wrong in (1.5, True, "1", None, torch.tensor(1), [1]):
                with pytest.raises(TypeError, match="epoch is .*; expected an integer in 0 "):
                    method(wrong)
        collator.set_epoch(np.int64(3))
        assert collator._shared_epoch == 3 and collator.evaluation(np.uint8(4)).epoch == 4

    def test_a_tensors_kind_of_one_call(self, tokenizer):
        with pytest.raises(ValueError, match="return_tensors is 'tf'; expected one of 'pt', 'np'"):
            DataCollatorForSpanMasking(tokenizer)([[2, 7, 3]], return_tensors="tf")

    @pytest.mark.parametrize("examples", [None, {"input_ids": [2, 7, 3]}, "text", iter(()), torch.tensor(3)])
    def test_what_is_no_list_of_examples(self, tokenizer, examples):
        with pytest.raises(TypeError, match="called with .*; expected a list of examples"):
            DataCollatorForSpanMasking(tokenizer)(examples)

    def test_what_is_no_tokenizer(self, tokenizer):
        masker = SpanMasker.from_tokenizer(tokenizer)
        for options in ({}, {"masker": masker}):
            with pytest.raises(TypeError, match=r"tokenizer is 'bert' \(str\); expected a transformers tok"):
                DataCollatorForSpanMasking("bert", **options)

    def test_tokenizers_that_cannot_mask_or_pad(self, rows):
        with pytest.raises(ValueError, match="mask token"):
            DataCollatorForSpanMasking(tiny_tokenizer(mask_token=None))
        collator = DataCollatorForSpanMasking(tiny_tokenizer(pad_token=None))
        with pytest.raises(ValueError, match="no padding token"):
            collator(rows)
        assert collator(list(rectangle()))["input_ids"].shape == (8, 20)  # nothing to pad


IDS = [2, 7, 8, 9, 10, 3]


class TestColumns:
    """Columns that decide about the masks: the message names the example and the column."""

    @pytest.mark.parametrize(
        ("name", "value", "error", "message"),
        [
            ("sample_ids", 1.5, TypeError, r"sample_ids is 1\.5 \(float\); expected integers"),
            ("sample_ids", np.float32(2), TypeError, r"sample_ids is 2\.0 \(float32\)"),
            ("sample_ids", torch.tensor(1.5), TypeError, "sample_ids is a tensor of torch.float32"),
            ("sample_ids", "a", TypeError, r"sample_ids is 'a' \(str\); expected integers"),
            ("sample_ids", None, TypeError, "sample_ids is None"),
            ("sample_ids", 2**63, ValueError, "sample_ids is 9223372036854775808; expected"),
            ("sample_ids", np.uint64(2**63), ValueError, "sample_ids is 9223372036854775808"),
            ("sample_ids", [1], ValueError, r"sample_ids has shape \[1\]; expected one number"),
            ("sample_epoch", 1.9, TypeError, r"sample_epoch is 1\.9 \(float\)"),
            ("sample_epoch", -1, ValueError, r"sample_epoch is -1; expected 0 to 2\^32 - 1"),
            ("sample_epoch", 2**32, ValueError, "sample_epoch is 4294967296"),
            ("sample_epoch", float("nan"), TypeError, r"sample_epoch is nan \(float\)"),
            ("token_kinds", [2, 1, 1, 256, 1, 2], ValueError, r"token_kinds\[3\] is 256; expected 0 \(con"),
            ("token_kinds", np.array([2, 1, 1, -1, 1, 2]), ValueError, r"token_kinds\[3\] is -1"),
            ("token_kinds", torch.tensor([2, 1, 1, 257, 1, 2]), ValueError, r"token_kinds\[3\] is 257"),
            (
                "token_kinds",
                [2, 1, 1.5, 1, 1, 2],
                TypeError,
                r"token_kinds\[0\] is 2|token_kinds\[2\] is 1\.5",
            ),
            ("token_kinds", torch.ones(6), TypeError, "token_kinds is torch.float32"),
            (
                "special_tokens_mask",
                [1, 0, 2, 0, 0, 1],
                ValueError,
                r"special_tokens_mask\[2\] is 2; .* 0 or 1",
            ),
            ("special_tokens_mask", torch.ones(6), TypeError, "special_tokens_mask is torch.float32"),
            ("attention_mask", np.ones(6), TypeError, "attention_mask is an array of float64"),
            ("candidates", [[1, 2.5]], TypeError, r"candidates\[0, 1\] is 2\.5 \(float\)"),
            ("candidates", np.ones((2, 2)), TypeError, "candidates is an array of float64"),
            (
                "candidates",
                [[1, 2, 3], [3, 4, 5]],
                ValueError,
                r"candidates has shape \[2, 3\]; expected spans",
            ),
            ("candidates", [1, 2], ValueError, r"candidates has shape \[2\]; expected spans"),
        ],
    )
    @pytest.mark.parametrize("ragged", [False, True])
    @pytest.mark.parametrize("place", [0, 1])
    def test_bad_values(self, tokenizer, name, value, error, message, ragged, place):
        other = IDS[1:] if ragged else IDS
        along_tokens = isinstance(value, (list, np.ndarray, torch.Tensor)) and len(np.shape(value)) == 1
        good = (
            [[1, 2]] if name == "candidates" else [1] * len(other) if along_tokens and len(value) == 6 else 1
        )
        rows = [{"input_ids": other, name: good}]
        rows.insert(place, {"input_ids": IDS, name: value})
        with pytest.raises(error, match=rf"example {place}: ({message})"):
            DataCollatorForSpanMasking(tokenizer)(rows)

    @pytest.mark.parametrize(
        ("word_ids", "error", "message"),
        [
            (
                [None, 0, 1.5, 2, 3, None],
                TypeError,
                r"word_ids\[2\] is 1\.5 \(float\); expected integers and None",
            ),
            ([float("nan"), 0.0, 1.0, 2.0, 3.0, float("nan")], TypeError, r"word_ids\[0\] is nan \(float\)"),
            ([None, "0", "1", "2", "3", None], TypeError, r"word_ids\[1\] is '0' \(str\)"),
            (7, TypeError, r"word_ids is 7 \(int\); expected a sequence"),
            ([[0]] * 6, ValueError, r"word_ids has shape \[6, 1\]; expected one number a token"),
            ([None, 0, None], ValueError, "word_ids has 3 entries for 6 input_ids"),
        ],
    )
    def test_bad_word_ids(self, tokenizer, word_ids, error, message):
        rows = [
            {"input_ids": IDS, "word_ids": [None, 0, 1, 2, 3, None]},
            {"input_ids": IDS, "word_ids": word_ids},
        ]
        with pytest.raises(error, match=f"example 1: {message}"):
            DataCollatorForSpanMasking(tokenizer, kinds="words")(rows)

    def test_a_fraction_in_a_later_ragged_row_is_not_cut_off(self, tokenizer):
        with pytest.raises(TypeError, match=r"input_ids must be integers.*example 1: input_ids\[1\] is 7\.5"):
            DataCollatorForSpanMasking(tokenizer)([[2, 7, 3], [2, 7.5, 8, 3]])
        rows = [{"input_ids": [2, 7, 3], "score": [1, 2]}, {"input_ids": [2, 7, 3], "score": [0.5]}]
        assert DataCollatorForSpanMasking(tokenizer)(rows)["score"].tolist() == [[1.0, 2.0], [0.5, 0.0]]

    @pytest.mark.parametrize("form", [torch.tensor, np.array])
    def test_the_row_that_is_wrong_is_named_where_stacking_would_change_all(self, tokenizer, form):
        rows = [{"input_ids": form(IDS), "token_kinds": form([2, 1, 1, 1, 1, 2])} for _ in range(3)]
        rows[2]["token_kinds"] = form([2.0, 1, 1, 1, 1, 2])
        with pytest.raises(TypeError, match="example 2: token_kinds is .*float"):
            DataCollatorForSpanMasking(tokenizer)(rows)
        rows[1]["input_ids"], rows[2]["token_kinds"] = form([2.0, 7, 8, 9, 9, 3]), rows[0]["token_kinds"]
        with pytest.raises(TypeError, match="example 1: input_ids is .*float"):
            DataCollatorForSpanMasking(tokenizer)(rows)

    def test_an_empty_row_has_no_dtype(self, tokenizer):
        batch = DataCollatorForSpanMasking(tokenizer)([[], [2, 7, 8, 3]])
        assert batch["input_ids"].dtype == torch.int64 and batch["attention_mask"].sum(1).tolist() == [0, 4]

    def test_strings_of_the_rows_length(self, tokenizer):
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            row = {"input_ids": IDS, name: "abcdef"}
            with pytest.raises(TypeError, match=name):
                DataCollatorForSpanMasking(tokenizer)([row, row])


def test_repr(tokenizer):
    name = type(tokenizer).__name__
    assert repr(DataCollatorForSpanMasking(tokenizer, seed=7)) == (
        f"DataCollatorForSpanMasking({name}, seed=7, vocab_size=38, special_ids=4, mask_token_id=4, "
        "pad_token_id=0)"
    )
    changed = DataCollatorForSpanMasking(
        tokenizer, epoch=0, pad_to_multiple_of=8, row_bounds=False, ratio=0.3
    )
    assert repr(changed).endswith(
        "ratio=0.3, pad_token_id=0, pad_to_multiple_of=8, epoch=0, row_bounds=False)"
    )
