# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing.

All contestants run in one process, in rounds that visit each of them once, and the visiting order rotates from round
to round; a speed-up is the median of the ratios taken inside the rounds, so that a machine that slows down for a while
slows all of them. Times are the 20th, 50th and 80th percentiles over the rounds, in milliseconds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from support.report import Progress

LAUNCH_AHEAD_CYCLES = 4_000_000  # of a clock near 2 GHz


class Stopwatch:
    """Milliseconds from `start` to each `mark`: CUDA events on a GPU, the performance counter on a CPU.

    On CUDA `start` first overwrites a buffer larger than the L2 cache, so that no input is found there. With
    `launch_ahead` the GPU then idles for about two milliseconds before the clock starts: launches of short work
    run ahead of it as they do behind an encoder, and what is timed is the GPU's part. Work that waits for the
    GPU loses that lead.
    """

    def __init__(self, device: torch.device, launch_ahead: bool = True) -> None:
        self.device = device
        self.launch_ahead = launch_ahead
        self.cuda = device.type == "cuda"
        self.flush = torch.empty(2**28, dtype=torch.uint8, device=device) if self.cuda else None
        self.marks: dict[str, Any] = {}

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def start(self) -> None:
        if self.flush is not None:
            self.flush.zero_()
            torch.cuda.synchronize(self.device)
            if self.launch_ahead:
                torch.cuda._sleep(LAUNCH_AHEAD_CYCLES)
        self.marks = {"": self._now()}

    def mark(self, name: str) -> None:
        self.marks[name] = self._now()

    def read(self) -> dict[str, float]:
        if self.cuda:
            torch.cuda.synchronize(self.device)
        marks = dict(self.marks)
        begin = marks.pop("")
        return {
            name: begin.elapsed_time(end) if self.cuda else (end - begin) * 1e3 for name, end in marks.items()
        }


@contextmanager
def no_collection() -> Iterator[None]:
    """Collects garbage now and none inside. What survives is frozen, so that the next call is quick."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


Task = Callable[[int, Stopwatch], None]
"""Takes the round's number, makes its inputs, then calls `start`, does the work and `mark`s the stopwatch."""


Name = TypeVar("Name", bound=Hashable)


def interleave(
    tasks: Mapping[Name, Task],
    watches: Stopwatch | Mapping[Name, Stopwatch],
    repeats: int,
    seconds: float,
    progress: Progress,
    after_round: Callable[[dict[Name, list[dict[str, float]]], int], None] | None = None,
) -> dict[Name, list[dict[str, float]]]:
    """Runs every task once a round, for `repeats` rounds or until `seconds` are over, but 3 rounds at least.

    Returns, per task and round, milliseconds by mark; round r of one task belongs to round r of another. `after_round`
    gets what there is of it and the number of rounds.
    """
    names = list(tasks)
    samples: dict[Name, list[dict[str, float]]] = {name: [] for name in names}
    begin = time.perf_counter()
    for round_ in range(repeats):
        if round_ >= 3 and time.perf_counter() - begin > seconds:
            progress(f"stopped after {round_} of {repeats} rounds: the {seconds:g} s are over")
            break
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            watch = watches if isinstance(watches, Stopwatch) else watches[name]
            with no_collection():  # a collection inside a step would count for the task that is running
                tasks[name](round_, watch)
                sample = watch.read()
            samples[name].append(sample)
            shown = ", ".join(f"{mark} {value:.2f} ms" for mark, value in sample.items())
            progress(f"round {round_ + 1}/{repeats}  {name}: {shown}", throttle=True)
        if after_round:
            after_round(samples, round_ + 1)
    return samples


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """20th, 50th and 80th percentile, linearly interpolated."""
    found = torch.tensor(values, dtype=torch.float64).quantile(
        torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    )
    return dict(zip(("p20", "p50", "p80"), found.tolist(), strict=True))


def ratios(
    samples: Mapping[Name, list[dict[str, float]]], name: Name, reference: Name, mark: str = "full"
) -> dict[str, float]:
    """Quantiles of `name`'s time over `reference`'s, taken round by round."""
    pairs = zip(samples[name], samples[reference], strict=True)
    return quantiles([mine[mark] / base[mark] for mine, base in pairs])
