"""The collator: which epoch its masks are of, alone and in the workers of a DataLoader."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from collator_samples import ragged_rows, rectangle
from tiny_models import one_thread, same, tiny_tokenizer  # noqa: F401
from torch.utils.data import DataLoader

from spanbert_ext import DataCollatorForSpanMasking


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return ragged_rows()


class TestEpochs:
    def test_masks_depend_on_seed_sample_and_epoch_alone(self, tokenizer, rows):
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


class TestWorkers:
    """Epochs differ with 0 or 2 workers, persistent or not; with a set epoch workers do not matter."""

    @pytest.mark.parametrize(("workers", "persistent"), WORKERS)
    def test_every_epoch_is_fresh(self, tokenizer, rows, workers, persistent):
        batches = loader(DataCollatorForSpanMasking(tokenizer), rows, workers, persistent)
        epochs = [one_epoch(batches) for _ in range(3)]
        for a, b in ((0, 1), (0, 2), (1, 2)):
            unchanged = sum(x == y for x, y in zip(epochs[a], epochs[b], strict=True))
            assert unchanged < 10  # of 40; some short rows may meet the same mask by chance

    def test_workers_do_not_repeat_each_other(self, tokenizer):
        row = rectangle(1, 60)[0]
        batches = loader(DataCollatorForSpanMasking(tokenizer), [row] * 8, 2, False, batch_size=1)
        assert len(set(one_epoch(batches))) == 8

    @pytest.mark.parametrize(("workers", "persistent"), WORKERS)
    @pytest.mark.parametrize("batch_size", [5, 8])
    def test_set_epoch_reaches_workers_and_fixes_the_masks(
        self, tokenizer, rows, workers, persistent, batch_size
    ):
        collator = DataCollatorForSpanMasking(tokenizer)
        batches = loader(collator, rows, workers, persistent, batch_size)
        for epoch in (0, 1, 0):
            collator.set_epoch(epoch)
            alone = DataCollatorForSpanMasking(tokenizer, epoch=epoch)
            assert one_epoch(batches) == one_epoch(loader(alone, rows, 0, False, batch_size=1))

    @pytest.mark.parametrize(("workers", "persistent"), WORKERS)
    def test_evaluation_repeats_itself(self, tokenizer, rows, workers, persistent):
        batches = loader(DataCollatorForSpanMasking(tokenizer).evaluation(), rows, workers, persistent)
        assert one_epoch(batches) == one_epoch(batches)

    def test_spawned_workers_see_set_epoch(self, tokenizer, rows):
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
