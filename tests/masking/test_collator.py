"""The collator: batches, columns, where the epoch comes from, and what it says about bad input."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from tiny_models import VOCABULARY, one_thread, same, tiny_texts, tiny_tokenizer  # noqa: F401
from torch.utils.data import DataLoader

from spanbert_ext import DataCollatorForSpanMasking, token_kinds_from_word_ids
from spanbert_ext.masking.masker import SpanMasker

TENSORS = ("input_ids", "labels", "masked_positions", "left_boundary", "right_boundary", "attention_mask")
MASK, PAD = VOCABULARY["[MASK]"], VOCABULARY["[PAD]"]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def rows(tokenizer) -> list[dict]:
    """40 ragged rows of 12, 22 or 32 tokens."""
    return [dict(tokenizer(text)) for text in tiny_texts(40)]


def originals(batch: dict) -> torch.Tensor:
    return torch.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"])


def rectangle(count: int = 8, length: int = 20, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, len(VOCABULARY) - 6, (count, length), generator=generator)
    ids[:, 0], ids[:, -1] = VOCABULARY["[CLS]"], VOCABULARY["[SEP]"]
    return ids


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

    def test_t9_the_callers_rows_are_not_changed(self, tokenizer):
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


class TestEpochs:
    def test_t11_masks_depend_on_seed_sample_and_epoch_alone(self, tokenizer, rows):
        def masks(**options):
            return DataCollatorForSpanMasking(tokenizer, **options)(rows)["labels"]

        assert torch.equal(masks(epoch=1), masks(epoch=1))
        assert not torch.equal(masks(epoch=1), masks(epoch=2))
        assert not torch.equal(masks(epoch=1), masks(epoch=1, seed=1))

    def test_the_order_of_the_rules(self, tokenizer, rows):
        fixed = DataCollatorForSpanMasking(tokenizer, epoch=4)
        collator = DataCollatorForSpanMasking(tokenizer)
        collator.set_epoch(4)
        assert same(collator(rows), fixed(rows))
        fixed.set_epoch(9)  # a fixed epoch is fixed
        assert same(collator(rows), DataCollatorForSpanMasking(tokenizer, epoch=9)(rows)) is False
        assert same(fixed(rows), collator(rows))
        with_column = [{**row, "sample_epoch": 6} for row in rows]
        assert same(collator(with_column), DataCollatorForSpanMasking(tokenizer, epoch=6)(rows))
        assert same(fixed(with_column), DataCollatorForSpanMasking(tokenizer, epoch=6)(rows))

    def test_sample_epoch_may_differ_by_row(self, tokenizer, rows):
        batch = DataCollatorForSpanMasking(tokenizer)(
            [{**row, "sample_epoch": i % 2} for i, row in enumerate(rows)]
        )
        by_epoch = [DataCollatorForSpanMasking(tokenizer, epoch=e)(rows) for e in (0, 1)]
        for i in range(len(rows)):
            assert torch.equal(batch["input_ids"][i], by_epoch[i % 2]["input_ids"][i])

    def test_sample_ids_replace_the_hash(self, tokenizer):
        row = rectangle(1)[0]
        collator = DataCollatorForSpanMasking(tokenizer, epoch=0)
        batch = collator([{"input_ids": row, "sample_ids": i} for i in (1, 1, -1, 2**62)])
        assert torch.equal(batch["input_ids"][0], batch["input_ids"][1])
        assert len({tuple(mask.tolist()) for mask in batch["labels"]}) == 3
        hashed = collator([{"input_ids": row}, {"input_ids": row}])["labels"]
        assert torch.equal(hashed[0], hashed[1])

    def test_without_any_epoch_torchs_generator_decides(self, tokenizer, rows):
        collator = DataCollatorForSpanMasking(tokenizer)
        torch.manual_seed(0)
        first, second = collator(rows), collator(rows)
        torch.manual_seed(0)
        assert same(collator(rows), first) and not same(first, second)

    def test_evaluation_and_training_share_all_but_the_epoch(self, tokenizer, rows):
        collator = DataCollatorForSpanMasking(tokenizer, seed=3)
        evaluation = collator.evaluation()
        collator.set_epoch(8)
        assert same(evaluation(rows), DataCollatorForSpanMasking(tokenizer, seed=3, epoch=0)(rows))
        assert same(evaluation.training()(rows), DataCollatorForSpanMasking(tokenizer, seed=3, epoch=8)(rows))

    def test_copies_and_pickles_keep_working(self, tokenizer, rows):
        collator = DataCollatorForSpanMasking(tokenizer, seed=5)
        collator.set_epoch(2)
        for twin in (pickle.loads(pickle.dumps(collator)), copy.deepcopy(collator)):
            assert same(twin(rows), collator(rows))
            twin.set_epoch(3)
            assert not same(twin(rows), collator(rows))
            assert twin._shared_epoch.is_shared()


def loader(collator, rows, workers: int, persistent: bool, batch_size: int = 8) -> DataLoader:
    return DataLoader(
        rows, batch_size, collate_fn=collator, num_workers=workers, persistent_workers=persistent
    )


def one_epoch(batches: DataLoader) -> list[tuple[int, ...]]:
    """What stands in each row after masking, without its padding: comparable over any batch split."""
    return [
        tuple(ids[attention.bool()].tolist())
        for batch in batches
        for ids, attention in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


WORKERS = [(0, False), (2, False), (2, True)]


class TestT11Workers:
    """T11: epochs differ with 0 or 2 workers, persistent or not; with a set epoch workers do not matter."""

    @pytest.mark.parametrize(("workers", "persistent"), WORKERS)
    def test_t11_every_epoch_is_fresh(self, tokenizer, rows, workers, persistent):
        batches = loader(DataCollatorForSpanMasking(tokenizer), rows, workers, persistent)
        epochs = [one_epoch(batches) for _ in range(3)]
        for a, b in ((0, 1), (0, 2), (1, 2)):
            unchanged = sum(x == y for x, y in zip(epochs[a], epochs[b], strict=True))
            assert unchanged < 10  # of 40; some short rows may meet the same mask by chance

    def test_t11_workers_do_not_repeat_each_other(self, tokenizer):
        row = rectangle(1, 60)[0]
        batches = loader(DataCollatorForSpanMasking(tokenizer), [row] * 8, 2, False, batch_size=1)
        assert len(set(one_epoch(batches))) == 8

    @pytest.mark.parametrize(("workers", "persistent"), WORKERS)
    @pytest.mark.parametrize("batch_size", [5, 8])
    def test_t11_set_epoch_reaches_workers_and_fixes_the_masks(
        self, tokenizer, rows, workers, persistent, batch_size
    ):
        collator = DataCollatorForSpanMasking(tokenizer)
        batches = loader(collator, rows, workers, persistent, batch_size)
        for epoch in (0, 1, 0):
            collator.set_epoch(epoch)
            alone = DataCollatorForSpanMasking(tokenizer, epoch=epoch)
            assert one_epoch(batches) == one_epoch(loader(alone, rows, 0, False, batch_size=1))

    @pytest.mark.parametrize(("workers", "persistent"), WORKERS)
    def test_t11_evaluation_repeats_itself(self, tokenizer, rows, workers, persistent):
        batches = loader(DataCollatorForSpanMasking(tokenizer).evaluation(), rows, workers, persistent)
        assert one_epoch(batches) == one_epoch(batches)

    def test_t11_spawned_workers_see_set_epoch(self, tokenizer, rows):
        collator = DataCollatorForSpanMasking(tokenizer)
        batches = DataLoader(
            rows,
            8,
            collate_fn=collator,
            num_workers=1,
            persistent_workers=True,
            multiprocessing_context="spawn",
        )
        for epoch in (3, 4):
            collator.set_epoch(epoch)
            alone = DataCollatorForSpanMasking(tokenizer, epoch=epoch)
            assert one_epoch(batches) == one_epoch(loader(alone, rows, 0, False))


class TestBadInput:
    @pytest.mark.parametrize(
        "name",
        [
            *("labels", "masked_positions", "left_boundary", "right_boundary"),
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
    def test_t12_rows(self, tokenizer, features, error, message):
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
        with pytest.raises(ValueError, match="epoch"):
            DataCollatorForSpanMasking(tokenizer).set_epoch(-2)

    def test_tokenizers_that_cannot_mask_or_pad(self, rows):
        with pytest.raises(ValueError, match="mask token"):
            DataCollatorForSpanMasking(tiny_tokenizer(mask_token=None))
        collator = DataCollatorForSpanMasking(tiny_tokenizer(pad_token=None))
        with pytest.raises(ValueError, match="no padding token"):
            collator(rows)
        assert collator(list(rectangle()))["input_ids"].shape == (8, 20)  # nothing to pad
