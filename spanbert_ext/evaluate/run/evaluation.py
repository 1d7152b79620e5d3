# SPDX-License-Identifier: Apache-2.0
"""One evaluation from its options to its report, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from spanbert_ext.evaluate.run.checkpoints import find_checkpoints
from spanbert_ext.evaluate.run.jobs import Job, Jobs, plan_jobs
from spanbert_ext.evaluate.run.store import Store
from spanbert_ext.evaluate.run.workers import Failure, do_jobs
from spanbert_ext.evaluate.tasks.form import Checkpoint, EvaluationError, Task
from spanbert_ext.evaluate.tasks.loading import load_config, load_tokenizer, longest_row
from spanbert_ext.evaluate.tasks.options import TaskOptions
from spanbert_ext.evaluate.tasks.registry import TASKS
from spanbert_ext.files.bars import bars_shown


@dataclass
class Request:
    """What an evaluation is asked."""

    task: str
    checkpoints: Sequence[str]
    data: Path
    output: Path
    options: TaskOptions
    seeds: int = 3
    only_folds: Sequence[int] = field(default_factory=list)
    device: str = "auto"
    bf16: bool | None = None
    processes: int = 1
    progress: bool = True


@dataclass
class Evaluation:
    """An evaluation whose jobs are planned, and done as far as there are no failures."""

    task: Task[Any, Any]
    checkpoints: Sequence[Checkpoint]
    jobs: Jobs
    store: Store
    failures: list[Failure] = field(default_factory=list)


def evaluate(request: Request, about: dict[str, Any]) -> Evaluation:
    """Plans the jobs, prints what they are, and does those that have no result yet. about: the command, to be kept.

    Raises `EvaluationError` and `DataError` for what the user can correct, before anything is trained; `InUse`;
    `DiskError`."""
    device, bf16 = choose_device(request.device, request.bf16)
    task = TASKS[request.task].make()
    data = task.load(request.data, request.options)
    checkpoints = find_checkpoints(request.checkpoints)
    for checkpoint in checkpoints:
        load_config(checkpoint)
        load_tokenizer(checkpoint)
        longest_row(checkpoint, wanted=1)
    jobs = plan_jobs(
        request.task,
        task,
        data,
        request.options,
        checkpoints,
        request.seeds,
        request.only_folds,
        device,
        bf16,
    )
    store = Store(request.output)
    evaluation = Evaluation(task, checkpoints, jobs, store)
    with store.held(about):
        done = store.done(jobs)
        print(describe(evaluation, len(done)))
        # one checkpoint under two names has each job once
        wanted = list({job.key: job for job in jobs.jobs if job.key not in done}.values())
        for checkpoint in dict.fromkeys(job.checkpoint for job in wanted):
            own = sorted({job.data for job in wanted if job.checkpoint == checkpoint})
            task.check(checkpoint, [jobs.data[i] for i in own], [jobs.folds[i] for i in own], jobs.options)
        with _Bar(jobs, wanted, request.progress) as bar:
            evaluation.failures = do_jobs(
                jobs,
                wanted,
                request.processes,
                lambda job, outcome: store.write(jobs, job, outcome),
                bar.show,
            )
    return evaluation


def choose_device(device: str, bf16: bool | None) -> tuple[str, bool]:
    """The device and whether it computes in bfloat16: as asked, else a GPU where there is one, and bfloat16 where a GPU
    has it. Raises `EvaluationError`."""
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise EvaluationError("--device is cuda but torch finds no usable GPU")
    chosen = "cuda" if there and device != "cpu" else "cpu"
    native = chosen == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if bf16 and chosen == "cuda" and not native:
        raise EvaluationError(f"--bf16: {torch.cuda.get_device_name()} has no bfloat16")
    return chosen, native if bf16 is None else bf16


def describe(evaluation: Evaluation, done: int) -> str:
    """What is about to be done, for people."""
    jobs, task = evaluation.jobs, evaluation.task
    lines = []
    for number, data in enumerate(jobs.data):
        folds = jobs.folds[number]
        tested = sum(len(fold.test) for fold in folds)
        parts = f"fold {folds[0].name}" if len(folds) == 1 else f"{len(folds)} folds"
        lines.append(
            f"  {data.name}: {tested:,} {task.items} to answer, {parts}, {len(folds[0].train):,} to train on"
        )
        lines += [f"    left out: {reason}" for reason in jobs.left_out[number]]
    for checkpoint in evaluation.checkpoints:
        seed = f" (pre-training seed {checkpoint.pretraining_seed})" if checkpoint.pretraining_seed else ""
        lines.append(f"  {checkpoint.name}{seed}: {checkpoint.folder}, {checkpoint.digest[:12]}")
    seeds = len({job.seed for job in jobs.jobs})
    precision = "bfloat16" if jobs.bf16 else "float32"
    kept = f", {done} done before" if done else ""
    lines.append(
        f"  {len(jobs.jobs)} jobs of {seeds} fine-tuning seed{'s'[: seeds - 1]}{kept}; {precision} on {jobs.device}"
    )
    if others := evaluation.store.others(jobs):
        lines.append(f"  results here of other checkpoints, data or options, which are not used: {others}")
    return "\n".join(lines)


class _Bar:
    """A progress bar over jobs, which moves within a job too."""

    def __init__(self, jobs: Jobs, wanted: Sequence[Job], shown: bool) -> None:
        self.jobs, self.shares = jobs, dict.fromkeys((job.key for job in wanted), 0.0)
        self.bar = tqdm(
            total=float(len(wanted)),
            disable=not (wanted and bars_shown(shown)),
            unit="job",
            bar_format="{desc} |{bar}| {n:.2f}/{total:.0f} jobs [{elapsed}, {remaining} left]",
        )

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def show(self, job: Job, share: float) -> None:
        fold = self.jobs.folds[job.data][job.fold].name
        self.bar.set_description_str(
            f"{self.jobs.data[job.data].name}, {job.checkpoint.name}, seed {job.seed}, fold {fold}",
            refresh=False,
        )
        self.bar.update(share - self.shares[job.key])
        self.shares[job.key] = share
