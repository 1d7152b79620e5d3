# SPDX-License-Identifier: Apache-2.0
"""The collator: which epoch its masks are of, alone and in the workers of a DataLoader."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from collator_samples import rectangle
from tiny_models import one_thread, same, tiny_tokenizer  # noqa: F401
from torch.utils.data import DataLoader

import spanbert_ext
from spanbert_ext import DataCollatorForSpanMasking
from spanbert_ext.masking.mask_epochs import BatchEpochs, any_copy, batch_epoch


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

    def test_without_any_epoch_a_batch_has_its_number(self, tokenizer, rows):
        collator = DataCollatorForSpanMasking(tokenizer, seed=42)
        for number in range(3):
            torch.manual_seed(number)
            fixed = DataCollatorForSpanMasking(tokenizer, seed=42, epoch=number)
            assert same(collator(rows), fixed(rows))
        assert same(collator.training()(rows), DataCollatorForSpanMasking(tokenizer, seed=42, epoch=3)(rows))
        assert same(collator(rows), DataCollatorForSpanMasking(tokenizer, seed=42, epoch=4)(rows))
        without_seed = DataCollatorForSpanMasking(tokenizer, seed=None)
        assert same(without_seed(rows), DataCollatorForSpanMasking(tokenizer, seed=0, epoch=0)(rows))

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
            assert twin._shared_epoch.is_shared() and twin._batch_epochs._cells.is_shared()

    def test_copies_go_on_where_they_were_made(self, tokenizer, rows):
        collator = DataCollatorForSpanMasking(tokenizer)
        collator(rows)
        twins = pickle.loads(pickle.dumps(collator)), copy.deepcopy(collator)
        second = collator(rows)
        assert all(same(twin(rows), second) for twin in twins)


class TestStaticMasks:
    """`dupe_factor`: a row has so many masks, seen in turn."""

    @pytest.mark.parametrize("copies", [1, 3])
    def test_set_epochs_repeat_after_as_many(self, tokenizer, rows, copies):
        static = DataCollatorForSpanMasking(tokenizer, dupe_factor=copies)
        for epoch in [0, 1, 2, 3, 10, 2**32 - 1]:
            static.set_epoch(epoch)
            assert same(static(rows), DataCollatorForSpanMasking(tokenizer, epoch=epoch % copies)(rows))

    def test_the_column_repeats_by_row(self, tokenizer, rows):
        static = DataCollatorForSpanMasking(tokenizer, dupe_factor=4)
        epochs = [(11 * i) % 2**32 for i in range(len(rows) - 1)] + [2**32 - 1]
        got = static([{**row, "sample_epoch": e} for row, e in zip(rows, epochs, strict=True)])
        plain = [{**row, "sample_epoch": e % 4} for row, e in zip(rows, epochs, strict=True)]
        assert same(got, DataCollatorForSpanMasking(tokenizer)(plain))

    def test_a_fixed_epoch_stays(self, tokenizer, rows):
        static = DataCollatorForSpanMasking(tokenizer, dupe_factor=2)
        static.set_epoch(1)
        assert same(static.evaluation(5)(rows), DataCollatorForSpanMasking(tokenizer, epoch=5)(rows))
        assert same(
            static.evaluation(5).training()(rows), DataCollatorForSpanMasking(tokenizer, epoch=1)(rows)
        )

    @pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
    def test_without_any_epoch_a_row_has_no_more_masks(self, tokenizer, rows, workers, persistent):
        """Six passes of four batches, a multiple of the copies: each copy comes up for nearly every row."""
        batches = loader(DataCollatorForSpanMasking(tokenizer, dupe_factor=2), rows, workers, persistent, 10)
        passes = [one_epoch(batches) for _ in range(6)]
        copies = [
            one_epoch(loader(DataCollatorForSpanMasking(tokenizer, epoch=e), rows, 0, False)) for e in (0, 1)
        ]
        for b in range(len(rows)):
            seen = {masks[b] for masks in passes}
            assert seen <= {copies[0][b], copies[1][b]}
        both = sum(
            len({masks[b] for masks in passes}) == 2 for b in range(len(rows)) if copies[0][b] != copies[1][b]
        )
        assert both >= 30

    @pytest.mark.parametrize("copies", [1, 2, 10, 100])
    def test_batch_numbers_choose_every_copy_as_often(self, copies):
        """A hundred times each, give or take four standard deviations."""
        for first in (0, 12345):
            for step in (1, copies, 64, 987):
                numbers = torch.tensor([any_copy(first + step * i, copies) for i in range(100 * copies)])
                counts = torch.bincount(numbers, minlength=copies)
                assert len(counts) == copies and counts.min() >= 60, (copies, first, step)

    @pytest.mark.parametrize("batches", [64, 377, 987, 1000])
    def test_a_row_has_many_masks_whatever_the_number_of_batches(self, batches):
        """Ten passes in one order draw 10 * (1 - 0.9^10) = 6.5 of ten copies on average."""
        epochs = BatchEpochs()
        passes = torch.tensor([[any_copy(epochs.next(), 10) for _ in range(batches)] for _ in range(10)])
        distinct = [len(copies.unique()) for copies in passes.T]
        assert 6.2 < sum(distinct) / batches < 6.8

    def test_it_is_shown_and_copied(self, tokenizer, rows):
        static = DataCollatorForSpanMasking(tokenizer, dupe_factor=3)
        static.set_epoch(5)
        assert repr(static).endswith(", dupe_factor=3)")
        assert same(pickle.loads(pickle.dumps(static))(rows), static(rows))
        assert same(static.training()(rows), static(rows))


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


class TestBatchEpochs:
    def test_no_epoch_comes_twice(self):
        epochs = {batch_epoch(run, batch) for run in range(100) for batch in range(1000)}
        assert len(epochs) == 100_000 and batch_epoch(0, 7) == 7
        for count in (10, 1000, 10_000):
            begins = torch.tensor([batch_epoch(run, 0) for run in range(count)]).sort().values
            gaps = torch.cat([begins.diff(), begins[:1] + 2**32 - begins[-1:]])
            assert int(gaps.min()) > 2**32 / (2.3 * count)

    def test_workers_of_a_loader_agree(self):
        workers = [BatchEpochs() for _ in range(3)]
        for worker in workers:
            worker._cells = workers[0]._cells
        joined = lambda seed, order: [workers[id]._join(id, seed) for id in order]  # noqa: E731
        assert joined(5, [1, 0, 2]) == [1, 1, 1]
        assert joined(2**40 + 6, [0, 1]) == [2, 2]  # worker 2 was not asked for a batch
        assert joined(7, [2, 0, 1]) == [3, 3, 3]
        assert joined(7, [1, 2, 0]) == [4, 4, 4]  # the same seed again
        assert joined(5, [0, 1, 2]) == [5, 5, 5]

    def test_workers_that_begin_at_once(self):
        """Each has read the cells before another has written its own."""
        first, second = BatchEpochs(), BatchEpochs()
        assert first._join(0, 9) == second._join(1, 9) == 1


NEW_PROCESS = """
import json, sys, torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast
from spanbert_ext import DataCollatorForSpanMasking

torch.manual_seed(5)
collator = DataCollatorForSpanMasking(PreTrainedTokenizerFast.from_pretrained(sys.argv[1]), seed=42)
batches = DataLoader(json.load(open(sys.argv[1] + "/rows.json")), 2, collate_fn=collator, num_workers=2)
print(json.dumps([[batch["input_ids"].tolist() for batch in batches] for _ in range(2)]))
"""


class TestWorkers:
    """Epochs differ with 0 or 2 workers, persistent or not; with a set epoch workers do not matter."""

    @pytest.mark.parametrize(("workers", "persistent"), WORKERS)
    def test_every_epoch_is_fresh(self, tokenizer, rows, workers, persistent):
        batches = loader(DataCollatorForSpanMasking(tokenizer), rows, workers, persistent)
        epochs = [one_epoch(batches) for _ in range(3)]
        for a, b in ((0, 1), (0, 2), (1, 2)):
            unchanged = sum(x == y for x, y in zip(epochs[a], epochs[b], strict=True))
            assert unchanged < 10  # of 40; some short rows may meet the same mask by chance

    @pytest.mark.parametrize(("workers", "persistent"), [*WORKERS, (1, False), (1, True)])
    def test_a_new_collator_repeats_the_passes(self, tokenizer, rows, workers, persistent):
        passes = []
        for torch_seed in (0, 1):
            torch.manual_seed(torch_seed)
            collator = DataCollatorForSpanMasking(tokenizer, seed=42)
            batches = loader(collator, rows[:24], workers, persistent, batch_size=4)
            passes.append([one_epoch(batches) for _ in range(3)])
        assert passes[0] == passes[1]
        assert len(set(map(tuple, passes[0]))) == 3

    @pytest.mark.parametrize("persistent", [False, True])
    def test_passes_that_stop_early(self, tokenizer, rows, persistent):
        found = []
        for _ in range(2):
            collator = DataCollatorForSpanMasking(tokenizer, seed=42)
            batches = loader(collator, rows[:24], 2, persistent, batch_size=4)
            for _ in range(2):
                for _ in batches:
                    break
            found.append(one_epoch(batches) + one_epoch(loader(collator, rows[:24], 2, False, batch_size=4)))
        assert found[0] == found[1]

    def test_a_loader_that_is_seeded_anew_for_every_pass(self, tokenizer, rows):
        batches = loader(DataCollatorForSpanMasking(tokenizer), rows[:16], 2, False, batch_size=4)
        passes = set()
        for _ in range(3):
            torch.manual_seed(0)
            passes.add(tuple(one_epoch(batches)))
        assert len(passes) == 3

    def test_a_new_process_repeats_them(self, tokenizer, rows, tmp_path):
        tokenizer.save_pretrained(tmp_path)
        rows = [row["input_ids"] for row in rows[:8]]
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        done = subprocess.run(
            [sys.executable, "-c", NEW_PROCESS, str(tmp_path)],
            env=os.environ
            | {"PYTHONPATH": str(Path(spanbert_ext.__file__).parents[1]), "PYTHONHASHSEED": "7"},
            capture_output=True,
            text=True,
            check=True,
        )
        batches = loader(DataCollatorForSpanMasking(tokenizer, seed=42), rows, 2, False, 2)
        here = [[batch["input_ids"].tolist() for batch in batches] for _ in range(2)]
        assert json.loads(done.stdout) == here and here[0] != here[1]

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
        forked = loader(DataCollatorForSpanMasking(tokenizer), rows, 1, True)
        for _ in range(2):
            assert one_epoch(batches) == one_epoch(forked)
        for epoch in (3, 4):
            collator.set_epoch(epoch)
            alone = DataCollatorForSpanMasking(tokenizer, epoch=epoch)
            assert one_epoch(batches) == one_epoch(loader(alone, rows, 0, False))
