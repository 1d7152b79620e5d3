# SPDX-License-Identifier: Apache-2.0
"""A schedule in Trainer's terms: a batch is a part of an update, and Trainer's only epoch is the whole run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from spanbert_ext.files.signals import SIGNALS, ignore
from spanbert_ext.pretrain.rows.rows import Rows
from spanbert_ext.pretrain.rows.schedule import Schedule


class ScheduledRows(Dataset):
    """The parts of a schedule's updates, in order; an element is the list of a part's rows.

    Args:
        schedule: which rows.
        rows: those of each of its phases.
        static: every row has the mask epoch 0. Else column `sample_epoch` is the epoch in which it is read.
    """

    def __init__(self, schedule: Schedule, rows: Sequence[Rows], static: bool = False) -> None:
        for phase, made in zip(schedule.phases, rows, strict=True):
            if len(phase.lengths) != len(made):
                raise ValueError(f"a phase of {len(phase.lengths)} rows is given {len(made)}")
        self.schedule = schedule
        self.rows = list(rows)
        self.static = static

    def __len__(self) -> int:
        return len(self.schedule) * self.schedule.parts

    def __getitem__(self, number: int) -> list[dict[str, Any]]:
        part = self.schedule.part(number)
        rows = self.rows[part.phase].__getitems__(part.rows.tolist())
        for row, epoch in zip(rows, part.epochs.tolist(), strict=True):
            row["sample_epoch"] = 0 if self.static else epoch
        return rows

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        return [row for number in numbers for row in self[number]]


class PartNumbers:
    """The batch sampler: a batch is the number of a part. Of several processes accelerate gives each every n-th one,
    and to resume is to pass over numbers, for which no row is read."""

    batch_size = 1
    drop_last = False

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        return ([number] for number in range(self.count))


def outlive_signals(worker: int) -> None:
    """What ends a run is often sent to all its processes: the run still wants batches for the step that it is in, and
    its workers end with it."""
    ignore(*SIGNALS)


class ScheduledLoader:
    """A Trainer (mixed in before it) whose `train_dataset` is `ScheduledRows`: it reads what these say.

    Their schedule has one part for each process and accumulation step, and as many updates as the run has steps. Rows
    have the columns that the collator reads, so none is dropped before it, in evaluation either."""

    def get_train_dataloader(self) -> DataLoader:
        data: ScheduledRows = self.train_dataset
        args = self.args
        parts, updates = args.gradient_accumulation_steps * args.world_size, args.max_steps
        if data.schedule.parts != parts or len(data.schedule) != updates:
            raise ValueError(
                f"the schedule has {len(data.schedule)} updates of {data.schedule.parts} parts, Trainer expects"
                f" {updates} of {parts}: accumulation steps times processes"
            )
        loader = DataLoader(
            data,
            batch_sampler=PartNumbers(len(data)),
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            # before transformers 5.14 there is none
            multiprocessing_context=getattr(args, "dataloader_multiprocessing_context", None),
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=outlive_signals,
        )
        return self.accelerator.prepare(loader)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        loader = super().get_eval_dataloader(eval_dataset)
        getattr(
            loader, "base_dataloader", loader
        ).worker_init_fn = outlive_signals  # accelerate's holds another
        return loader

    def _get_collator_with_removed_columns(
        self, collator: Callable, description: str | None = None
    ) -> Callable:
        return collator
