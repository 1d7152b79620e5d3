# SPDX-License-Identifier: Apache-2.0
"""A schedule in Trainer's loop: mask epochs, accumulation, processes, phases and what a resume passes over."""

from __future__ import annotations

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

pytest.importorskip("datasets")

from accelerate import skip_first_batches
from accelerate.data_loader import BatchSamplerShard
from row_samples import made_rows, token_documents
from tiny_models import make_model, one_thread, same, tiny_tokenizer  # noqa: F401 (a fixture)
from transformers import TrainingArguments

from spanbert_ext import DataCollatorForSpanMasking, SpanMaskingCallback
from spanbert_ext.pretrain.rows.loader import PartNumbers, ScheduledRows
from spanbert_ext.pretrain.rows.rows import Rows
from spanbert_ext.pretrain.rows.schedule import Phase, Schedule
from spanbert_ext.pretrain.run.trainer import SpanTrainer
from spanbert_ext.pretrain.settings.options import Options

STEPS = 5


@pytest.fixture(scope="module")
def rows() -> Rows:
    draw = np.random.default_rng(0)
    return made_rows(token_documents([draw.integers(2, 9, 12).tolist() for _ in range(8)]), 24)


def scheduled(
    rows: Rows, parts: int, steps: int = STEPS, size: int = 16, static: bool = False
) -> ScheduledRows:
    return ScheduledRows(Schedule([Phase(rows.lengths, steps, rows=size)], 3, parts), [rows], static)


def trainer_of(rows: Rows, folder, accumulation: int, workers: int = 0, **options) -> SpanTrainer:
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        gradient_accumulation_steps=accumulation,
        dataloader_num_workers=workers,
        learning_rate=1e-2,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    collator = DataCollatorForSpanMasking(tiny_tokenizer(), seed=1)
    return SpanTrainer(
        model=make_model(),
        args=args,
        train_dataset=options.get("train_dataset") or scheduled(rows, accumulation),
        eval_dataset=rows,
        data_collator=collator,
        processing_class=tiny_tokenizer(),
        callbacks=[SpanMaskingCallback(collator)],
        options=Options(samples=0).resolve(),
        folder=folder,
    )


def test_a_part_is_read_with_its_mask_epochs(rows):
    fresh, static = scheduled(rows, 2, steps=12), scheduled(rows, 2, steps=12, static=True)
    assert len(fresh) == 24
    epochs = [row["sample_epoch"] for row in fresh.__getitems__(range(24))]
    assert epochs == [position // len(rows) for position in range(12 * 16)] and max(epochs) >= 2
    assert {row["sample_epoch"] for row in static.__getitems__(range(24))} == {0}
    part = fresh.schedule.part(5)
    for row, number in zip(fresh[5], part.rows, strict=True):
        assert row["input_ids"].tolist() == rows[int(number)]["input_ids"].tolist()
    with pytest.raises(ValueError, match="a phase of 3 rows is given"):
        ScheduledRows(Schedule([Phase(np.ones(3, dtype=int), 1, rows=1)], 0, 1), [rows])


def test_processes_and_accumulation_divide_an_update(rows):
    """Accelerate's sampler of each process, over the parts: together they are the update of one process."""
    whole, divided = scheduled(rows, 1), scheduled(rows, 4)  # 2 processes of 2 accumulation steps
    shards = [list(BatchSamplerShard(PartNumbers(len(divided)), 2, rank)) for rank in range(2)]
    assert [len(shard) for shard in shards] == [2 * STEPS] * 2
    for step in range(STEPS):
        numbers = [shard[2 * step + k] for k in range(2) for shard in shards]
        together = [row for number in numbers for row in divided.__getitems__(number)]
        expected = whole.__getitems__([step])
        assert [(r["sample_ids"], r["sample_epoch"]) for r in together] == [
            (r["sample_ids"], r["sample_epoch"]) for r in expected
        ]


def test_accumulation_changes_no_loss(rows, tmp_path):
    weights, losses = [], []
    for accumulation in (1, 4):
        trainer = trainer_of(rows, tmp_path, accumulation)
        trainer.train()
        history = [log for log in trainer.state.log_history if "mlm_loss" in log]
        assert trainer.state.global_step == STEPS == len(history)
        losses.append([log[f"{head}_loss"] for log in history for head in ("mlm", "sbo")])
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(set(losses[0])) == 2 * STEPS
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resume_goes_on_behind_what_was_read(rows, tmp_path, workers):
    loader = trainer_of(rows, tmp_path, 2, workers).get_train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 2 * STEPS
    rest = list(skip_first_batches(loader, 6))
    assert len(rest) == 2 * STEPS - 6
    assert all(same(dict(a), dict(b)) for a, b in zip(batches[6:], rest, strict=True))
    assert not same(dict(batches[0]), dict(batches[1]))


def test_no_column_is_dropped_before_the_collator(rows, tmp_path):
    """An evaluation too masks by the rows' names, which the model does not take."""
    trainer = trainer_of(rows, tmp_path, 1)
    (batch, *_) = trainer.get_eval_dataloader()
    expected = trainer.data_collator([rows[number] for number in range(len(batch["input_ids"]))])
    assert torch.equal(batch["labels"], expected["labels"])
    renamed = [dict(rows[number], sample_ids=number) for number in range(len(batch["input_ids"]))]
    assert not torch.equal(batch["labels"], trainer.data_collator(renamed)["labels"])


def test_another_schedule_than_trainers_is_refused(rows, tmp_path):
    trainer = trainer_of(rows, tmp_path, 2, train_dataset=scheduled(rows, 1))
    with pytest.raises(ValueError, match="5 updates of 1 parts, Trainer expects 5 of 2: accumulation"):
        trainer.get_train_dataloader()


def test_workers_outlive_what_is_sent_to_all_processes(rows, tmp_path):
    """As `timeout` and cluster managers send it; torch's own handler would end them, and with them the run."""
    trainer = trainer_of(rows, tmp_path, 1, workers=1)
    for loader in (trainer.get_train_dataloader(), trainer.get_eval_dataloader()):
        batches = iter(loader)
        next(batches)
        (worker,) = multiprocessing.active_children()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(worker.pid, number)
        assert sum(1 for _ in batches) == len(loader) - 1
        worker.join(10)
        assert worker.exitcode == 0
