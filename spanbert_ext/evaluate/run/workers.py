# SPDX-License-Identifier: Apache-2.0
"""Jobs done one after the other, here or in several processes."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from spanbert_ext.evaluate.run.jobs import Job, Jobs
from spanbert_ext.evaluate.tasks.form import Conditions, EvaluationError, Outcome, Task
from spanbert_ext.evaluate.tasks.registry import TASKS
from spanbert_ext.files.messages import reason
from spanbert_ext.files.signals import ignore


@dataclass(frozen=True)
class Failure:
    """Why a job has no result. details: a traceback, empty where the message says all."""

    job: Job
    message: str
    details: str = ""


Done = Callable[[Job, Outcome], None]
Progress = Callable[[Job, float], None]  # the share of a job that is done


def do_jobs(
    jobs: Jobs, wanted: Sequence[Job], processes: int, done: Done, progress: Progress
) -> list[Failure]:
    """Does jobs, calls `done` with each outcome in this process, and goes on behind one that fails."""
    if processes == 1 or len(wanted) < 2:
        return _do_here(jobs, wanted, done, progress)
    return _do_in_processes(jobs, wanted, min(processes, len(wanted)), done, progress)


def _do_here(jobs: Jobs, wanted: Sequence[Job], done: Done, progress: Progress) -> list[Failure]:
    task, failures = TASKS[jobs.task].make(), []
    for job in wanted:
        answer = _do(task, jobs, job, lambda share, job=job: progress(job, share))
        if isinstance(answer, Failure):
            failures.append(answer)
        else:
            done(job, answer)
        progress(job, 1.0)
    return failures


def _do(task: Task[Any, Any], jobs: Jobs, job: Job, progress: Callable[[float], None]) -> Outcome | Failure:
    data, fold = jobs.data[job.data], jobs.folds[job.data][job.fold]
    conditions = Conditions(job.seed, jobs.device, jobs.bf16, progress)
    try:
        return task.train_and_predict(job.checkpoint, data, fold, jobs.options, conditions)
    except EvaluationError as error:
        return Failure(job, str(error))
    except Exception as error:
        return Failure(job, f"{type(error).__name__}: {reason(error)}", traceback.format_exc())
    finally:
        if jobs.device == "cuda":
            gc.collect()  # Trainer and its model refer to each other; the next one collects them too, but late
            torch.cuda.empty_cache()


# --- In several processes -------------------------------------------------------------------------------------


def _do_in_processes(
    jobs: Jobs, wanted: Sequence[Job], count: int, done: Done, progress: Progress
) -> list[Failure]:
    """A process takes the next job when it has ended one. One that dies, as for want of memory, takes its job alone
    along; the others go on."""
    waiting = list(reversed(wanted))
    failures: list[Failure] = []
    at_work: dict[Connection, tuple[multiprocessing.process.BaseProcess, Job]] = {}

    def give(pipe: Connection, process: multiprocessing.process.BaseProcess) -> None:
        job = waiting.pop() if waiting else None
        if job is None:
            at_work.pop(pipe, None)
        else:
            at_work[pipe] = (process, job)
        with contextlib.suppress(ConnectionError):  # a process that has died is found by its pipe's end
            pipe.send(job)

    processes = [_start(jobs, number, count) for number in range(count)]
    try:
        for pipe, process in processes:
            give(pipe, process)
        while at_work:
            for pipe in wait(list(at_work)):
                process, job = at_work[pipe]
                try:
                    answer = pipe.recv()
                except (
                    EOFError,
                    ConnectionError,
                ):  # the process has died; an error where it had not read its job
                    process.join()
                    at_work.pop(pipe)
                    failures.append(Failure(job, f"its process ended with status {process.exitcode}"))
                    progress(job, 1.0)
                    continue
                if isinstance(answer, float):
                    progress(job, answer)
                    continue
                if isinstance(answer, Failure):
                    failures.append(answer)
                else:
                    done(job, answer)
                progress(job, 1.0)
                give(pipe, process)
        failures += [Failure(job, "no process was left to do it") for job in reversed(waiting)]
    finally:
        for pipe, process in processes:
            pipe.close()
            process.terminate()
        for _, process in processes:
            process.join()
    return failures


def _start(jobs: Jobs, number: int, count: int) -> tuple[Connection, multiprocessing.process.BaseProcess]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(
        target=_work, args=(there, jobs, max(1, torch.get_num_threads() // count)), daemon=True
    )
    with _one_gpu(number if jobs.device == "cuda" else None):
        process.start()
    there.close()
    return here, process


@contextmanager
def _one_gpu(number: int | None) -> Iterator[None]:
    """Processes that are started inside see one GPU, each another one as far as there are several."""
    if number is None or torch.cuda.device_count() < 2:
        yield
        return
    name = "CUDA_VISIBLE_DEVICES"
    before = os.environ.get(name)
    seen = before.split(",") if before else [str(index) for index in range(torch.cuda.device_count())]
    os.environ[name] = seen[number % len(seen)]
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _work(pipe: Connection, jobs: Jobs, threads: int) -> None:
    ignore(signal.SIGINT, signal.SIGHUP)  # a terminal's
    torch.set_num_threads(threads)
    task = TASKS[jobs.task].make()
    shown = 0.0

    def progress(share: float) -> None:
        nonlocal shown
        if share - shown >= 0.01:
            pipe.send(shown := share)

    try:
        while (job := pipe.recv()) is not None:
            shown = 0.0
            pipe.send(_do(task, jobs, job, progress))
    except (EOFError, ConnectionError):  # the first process has ended
        pass
