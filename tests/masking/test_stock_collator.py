# SPDX-License-Identifier: Apache-2.0
"""In the place of transformers' collator: its arguments, attributes, batches and the rows that it takes."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings

import datasets
import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from collator_samples import TENSORS, rectangle
from tiny_models import one_thread, same, tiny_texts, tiny_tokenizer  # noqa: F401
from torch.utils.data import DataLoader
from transformers import BatchEncoding, DataCollatorForLanguageModeling

from spanbert_ext import DataCollatorForSpanMasking
from spanbert_ext.masking.masker import SpanMasker
from spanbert_ext.masking.row_bounds import HostNumber


class TestArguments:
    def test_the_positional_order(self, tokenizer):
        def positional(collator):
            parameters = inspect.signature(collator).parameters.values()
            return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

        stock = positional(DataCollatorForLanguageModeling)
        assert positional(DataCollatorForSpanMasking)[: len(stock)] == stock
        collator = DataCollatorForSpanMasking(tokenizer, True, True, 0.3, 0.7, 0.2, 8, "np", 5)
        found = {name: getattr(collator, name) for name in stock[1:]}
        expected = dict(zip(stock[1:], [True, True, 0.3, 0.7, 0.2, 8, "np", 5], strict=True))
        assert found == expected and collator.tokenizer is tokenizer

    def test_the_stock_defaults(self, tokenizer):
        stock, ours = DataCollatorForLanguageModeling(tokenizer), DataCollatorForSpanMasking(tokenizer)
        for name in ("mlm", "mlm_probability", "mask_replace_prob", "random_replace_prob", "return_tensors"):
            assert getattr(ours, name) == getattr(stock, name)

    def test_they_are_the_maskers_options(self, tokenizer, rows):
        stock = {"mlm_probability": 0.4, "mask_replace_prob": 0.5, "random_replace_prob": 0.3}
        ours = {"ratio": 0.4, "mask_share": 0.5, "random_share": 0.3}
        expected = DataCollatorForSpanMasking(tokenizer, epoch=1, **ours)(rows)
        for whole_word_mask in (None, False, True):  # spans are of whole words
            collator = DataCollatorForSpanMasking(
                tokenizer, whole_word_mask=whole_word_mask, epoch=1, tf_experimental_compile=False, **stock
            )
            assert same(collator(rows), expected) and collator.whole_word_mask
        assert not DataCollatorForSpanMasking(tokenizer, scheme="tokens").whole_word_mask

    def test_they_can_be_changed_in_a_run(self, tokenizer, rows):
        collator = DataCollatorForSpanMasking(tokenizer, epoch=1)
        evaluation, training = collator.evaluation(1), collator.training()  # as the callback takes them
        collator.mlm_probability, collator.random_replace_prob = 0.3, 0
        expected = DataCollatorForSpanMasking(tokenizer, epoch=1, ratio=0.3, random_share=0.0)(rows)
        assert same(collator(rows), expected) and same(evaluation(rows), expected)
        assert training.mlm_probability == 0.3
        assert pickle.loads(pickle.dumps(collator)).mlm_probability == 0.3
        with pytest.raises(ValueError, match="ratio is 1.5"):
            collator.mlm_probability = 1.5
        with pytest.raises(TypeError, match=r"mask_replace_prob is '1' \(str\)"):
            collator.mask_replace_prob = "1"
        assert collator.mlm_probability == 0.3

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"mlm_probability": 0.1, "ratio": 0.1}, TypeError, "mlm_probability or ratio, not both"),
            ({"mask_replace_prob": 1, "mask_share": 1.0}, TypeError, "mask_replace_prob or mask_share"),
            (
                {"random_replace_prob": 0.1, "random_share": 0.2},
                TypeError,
                "random_replace_prob or random_share",
            ),
            (
                {"mask_replace_prob": 1.0},
                ValueError,
                r"mask_share \+ random_share is 1.1",
            ),  # as the stock one
            ({"random_replace_prob": "0.1"}, TypeError, r"random_replace_prob is '0\.1' \(str\)"),
            ({"whole_word_mask": 0.15}, TypeError, r"whole_word_mask is 0\.15 .*expected True or False"),
            ({"whole_word_mask": True, "scheme": "tokens"}, TypeError, "whole_word_mask=True and scheme="),
            ({"tf_experimental_compile": True}, ValueError, "tf_experimental_compile=True"),
            ({"mlm": False}, ValueError, "mlm=False"),
        ],
    )
    def test_conflicts(self, tokenizer, options, error, message):
        with pytest.raises(error, match=message):
            DataCollatorForSpanMasking(tokenizer, **options)

    def test_a_masker_and_stock_names(self, tokenizer):
        with pytest.raises(TypeError, match=r"not both: \['mlm_probability', 'p'\]"):
            DataCollatorForSpanMasking(
                tokenizer, masker=SpanMasker.from_tokenizer(tokenizer), mlm_probability=0.1, p=0.3
            )


class TestBatch:
    @pytest.mark.parametrize("kind", ["pt", "np"])
    def test_it_is_a_batch_encoding(self, tokenizer, rows, kind):
        batch = DataCollatorForSpanMasking(tokenizer)(rows, return_tensors=kind)
        assert type(batch) is BatchEncoding and batch.input_ids is batch["input_ids"]
        assert isinstance(batch["labels"], torch.Tensor if kind == "pt" else np.ndarray)
        assert type((batch | {"more": 1})["all_text"]) is HostNumber

    def test_numbers_stay_what_they_are_wherever_it_goes(self, tokenizer, rows):
        batch = DataCollatorForSpanMasking(tokenizer)(rows)
        before = dict(batch)
        moved = copy.deepcopy(batch).to("meta")
        assert moved["labels"].is_meta and moved["all_text"] == batch["all_text"]
        clone = copy.copy(batch)  # as the thread that pins memory does
        clone.update({name: batch[name] for name in batch})
        ways = {
            "to": batch.to("cpu", non_blocking=True),
            "accelerate": send_to_device(batch, torch.device("cpu")),
            "Trainer": type(batch)(dict(batch.items())),
            "pickle": pickle.loads(pickle.dumps(batch)),
            "clone": clone,
        }
        for way, found in ways.items():
            assert type(found) is BatchEncoding and same(found, before), way
            assert type(found["all_text"]) is HostNumber, way

    def test_it_comes_out_of_workers(self, tokenizer, rows):
        collator = DataCollatorForSpanMasking(tokenizer, epoch=2)
        batches = DataLoader(rows, 20, collate_fn=collator, num_workers=1)
        for batch, expected in zip(batches, (collator(rows[:20]), collator(rows[20:])), strict=True):
            assert type(batch) is BatchEncoding and same(batch, expected)
            assert type(batch["all_text"]) is HostNumber

    @pytest.mark.parametrize("kind", ["tf", "jax", 1, "PT"])
    def test_other_tensors_are_refused_in_a_call(self, tokenizer, rows, kind):
        with pytest.raises(ValueError, match=r"return_tensors is .*; expected one of 'pt', 'np'"):
            DataCollatorForSpanMasking(tokenizer)(rows, return_tensors=kind)


def padded(row: list[int], length: int) -> list[int]:
    return row + [-100] * (length - len(row))


class TestLabels:
    @pytest.mark.parametrize("form", [list, np.array, torch.tensor])
    def test_a_copy_of_the_ids_is_replaced_in_silence(self, tokenizer, rows, form):
        equal = [row.tolist() for row in rectangle()]
        ragged = [row["input_ids"] for row in rows]
        collator = DataCollatorForSpanMasking(tokenizer, epoch=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for texts in (equal, ragged):
                expected = collator([{"input_ids": form(ids)} for ids in texts])
                for labels in (texts, [[-100, *ids[1:-1], -100] for ids in texts]):
                    found = collator(
                        [
                            {"input_ids": form(ids), "labels": form(of_row)}
                            for ids, of_row in zip(texts, labels, strict=True)
                        ]
                    )
                    assert same(found, expected)

    @pytest.mark.parametrize(
        "labels",
        [
            pytest.param(lambda ids: [7] * len(ids), id="other ids"),
            pytest.param(lambda ids: torch.full((len(ids),), 7), id="other ids, tensors"),
            pytest.param(lambda ids: padded(ids, 64), id="another width"),
            pytest.param(lambda ids: 1, id="a class"),
            pytest.param(lambda ids: torch.tensor(1), id="a class, tensors"),
            pytest.param(lambda ids: [0.5, 0.5], id="shares"),
            pytest.param(lambda ids: "positive", id="a name"),
            pytest.param(lambda ids: ["NOUN"] * len(ids), id="a name a token"),
            pytest.param(lambda ids: None, id="nothing"),
            pytest.param(lambda ids: [[1], [2, 3]], id="ragged"),
        ],
    )
    def test_others_are_replaced_with_one_warning(self, tokenizer, rows, labels):
        rows = [dict(row) for row in rows[:4]]
        with_labels = [row | {"labels": labels(row["input_ids"])} for row in rows]
        collator = DataCollatorForSpanMasking(tokenizer, epoch=1)
        with pytest.warns(
            UserWarning, match=r"column 'labels' is no copy of input_ids.*remove_columns"
        ) as found:
            batches = [collator(with_labels), collator.evaluation(1)(with_labels), collator(with_labels)]
        assert len(found) == 1
        assert all(same(batch, collator(rows)) for batch in batches)

    def test_one_warning_from_all_passes_of_workers(self, tokenizer, rows, tmp_path):
        def write_warnings(worker: int) -> None:
            def write(message, *place, **kwargs):
                with open(tmp_path / "said", "a") as file:
                    file.write(f"{message}\n")

            warnings.showwarning = write
            warnings.simplefilter("always")

        rows = [row | {"labels": 1} for row in rows]
        collator = DataCollatorForSpanMasking(tokenizer)
        batches = DataLoader(rows, 4, collate_fn=collator, num_workers=1, worker_init_fn=write_warnings)
        for _ in range(2):
            list(batches)
        assert (tmp_path / "said").read_text().count("is no copy of input_ids") == 1


class TestColumns:
    def test_offsets_and_word_ids_are_dropped(self, tokenizer):
        encodings = [tokenizer(text, return_offsets_mapping=True) for text in tiny_texts(6)]
        rows = [dict(encoding, word_ids=encoding.word_ids()) for encoding in encodings]
        batch = DataCollatorForSpanMasking(tokenizer)(rows)
        assert set(batch) == {*TENSORS, "token_type_ids", "all_text"}

    @pytest.mark.parametrize("form", [list, np.array, torch.tensor])
    @pytest.mark.parametrize("place", [0, 2, None])
    @pytest.mark.parametrize("kinds", ["prefix", "words"])
    def test_empty_rows(self, tokenizer, form, place, kinds):
        """Arrays and tensors of no element are floats. None: all rows are empty."""
        text = [2, 7, 8, 9, 10, 3]
        full = {"input_ids": text, "attention_mask": [1] * 6, "special_tokens_mask": [1, 0, 0, 0, 0, 1]}
        full |= {"word_ids": [-1, 0, 0, 1, 2, -1], "labels": text, "token_type_ids": [0] * 6}
        nothing = {name: form([]) for name in full}
        rows = [{name: form(column) for name, column in full.items()} for _ in range(3)]
        rows = [nothing] * 3 if place is None else [*rows[:place], nothing, *rows[place:]]
        collator = DataCollatorForSpanMasking(tokenizer, kinds=kinds, epoch=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            batch = collator(rows)
        names = ("input_ids", "labels", "attention_mask", "token_type_ids")
        assert all(batch[name].dtype == torch.int64 for name in names[:3])
        assert all(batch[name].shape == (len(rows), 0 if place is None else 6) for name in names)
        if place is not None:
            assert not batch["attention_mask"][place].any() and (batch["labels"][place] == -100).all()
            others = [row for index, row in enumerate(rows) if index != place]
            alone = collator(others)
            kept = [index for index in range(len(rows)) if index != place]
            assert torch.equal(batch["input_ids"][kept], alone["input_ids"])

    @pytest.mark.parametrize("form", ["torch", "numpy", None])
    def test_word_ids_of_a_formatted_dataset(self, tokenizer, form):
        """None becomes NaN there, and a row without None stays one of integers."""
        rows = []
        for number, text in enumerate(tiny_texts(12)):
            encoding = tokenizer(text, add_special_tokens=number % 3 > 0)
            rows.append({"input_ids": encoding["input_ids"], "word_ids": encoding.word_ids()})
        collator = DataCollatorForSpanMasking(tokenizer, kinds="words", epoch=1)
        dataset = datasets.Dataset.from_list(rows).with_format(form)
        assert same(collator([dataset[i] for i in range(12)]), collator(rows))

    def test_word_ids_that_are_no_numbers_of_words(self, tokenizer):
        collator = DataCollatorForSpanMasking(tokenizer, kinds="words")
        for wrong in (torch.tensor([0.0, 1.5, 2.0]), np.array([0.0, np.inf, 1.0])):
            with pytest.raises(TypeError, match=r"example 0: word_ids is .*float.* with fractions"):
                collator([{"input_ids": [2, 7, 3], "word_ids": wrong}])

    def test_word_ids_of_joined_texts(self, tokenizer):
        """As scripts that group texts join every column: numbers begin again."""
        encodings = [tokenizer(text) for text in tiny_texts(8)]
        ids = sum((encoding["input_ids"] for encoding in encodings), [])
        words = sum((encoding.word_ids() for encoding in encodings), [])
        kinds = sum(
            (
                [
                    2 if w is None else int(i == 0 or w != e.word_ids()[i - 1])
                    for i, w in enumerate(e.word_ids())
                ]
                for e in encodings
            ),
            [],
        )
        cut = [slice(start, start + 24) for start in range(5, len(ids) - 24, 24)]
        rows = [{"input_ids": ids[part], "word_ids": words[part]} for part in cut]
        explicit = [{"input_ids": ids[part], "token_kinds": kinds[part]} for part in cut]
        collator = DataCollatorForSpanMasking(tokenizer, kinds="words", epoch=1)
        assert same(collator(rows), collator(explicit))


class TestTokensThatCameLater:
    @pytest.mark.parametrize("kinds", ["prefix", "words"])
    def test_they_are_words(self, kinds):
        tokenizer = tiny_tokenizer()
        collator = DataCollatorForSpanMasking(tokenizer, kinds=kinds, epoch=1, mlm_probability=1.0)
        collator.mask_replace_prob, collator.random_replace_prob = 0.0, 1.0
        collator([tokenizer("the cat")])
        tokenizer.add_tokens(["zebra"])
        tokenizer.add_special_tokens({"extra_special_tokens": ["[E1]"]})
        rows = [tokenizer("the zebra saw [E1] a cat")] * 200
        batch = collator(rows)
        new = DataCollatorForSpanMasking(
            tokenizer, kinds=kinds, epoch=1, ratio=1.0, mask_share=0.0, random_share=1.0
        )
        assert same(batch, new(rows))
        zebra, special = tokenizer.convert_tokens_to_ids(["zebra", "[E1]"])
        assert (batch["labels"] == zebra).sum() == 200 and not (batch["labels"] == special).any()
        ids = torch.cat(
            [
                new(
                    [tokenizer("the cat saw a dog " * 8)],
                )["input_ids"]
                for new.epoch in range(50)
            ]
        )
        assert (ids == zebra).any() and not (ids == special).any()

    @pytest.mark.parametrize("kinds", ["prefix", "words"])
    def test_words_that_become_special(self, kinds):
        tokenizer = tiny_tokenizer()
        tokenizer.add_tokens(["[E1]"])
        collator = DataCollatorForSpanMasking(tokenizer, kinds=kinds, epoch=1, mlm_probability=1.0)
        marker = tokenizer.convert_tokens_to_ids("[E1]")
        assert (collator([tokenizer("the [E1] cat")])["labels"] == marker).sum() == 1
        tokenizer.add_special_tokens({"extra_special_tokens": ["[E1]"]})
        assert not (collator([tokenizer("the [E1] cat")])["labels"] == marker).any()

    def test_a_masker_of_ones_own_does_not_know_them(self):
        tokenizer = tiny_tokenizer()
        collator = DataCollatorForSpanMasking(tokenizer, masker=SpanMasker.from_tokenizer(tokenizer))
        tokenizer.add_tokens(["zebra"])
        with pytest.raises(IndexError, match=r"input_ids\[0, 2\] is 38.*another tokenizer"):
            collator([tokenizer("the zebra")])

    def test_special_tokens_without_a_role(self):
        tokenizer = tiny_tokenizer(extra_special_tokens=["[E1]"])
        special = tokenizer.convert_tokens_to_ids("[E1]")
        rows = [tokenizer("the [E1] cat [E1] sees a dog")] * 50
        for mask_them in (False, True):
            collator = DataCollatorForSpanMasking(
                tokenizer, ratio=1.0, mask_additional_tokens=mask_them, epoch=0
            )
            assert int((collator(rows)["labels"] == special).sum()) == (100 if mask_them else 0)
