# SPDX-License-Identifier: Apache-2.0
"""One profiled step: how long the GPU works, in how many kernels, and how often the host waits for it.

Kernels come from torch.profiler with CUDA activities alone: operators are not recorded, so that the step's launches
are delayed as little as a profiler can. On a machine without a GPU a profile has its wall time and nothing else.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from support.report import format_table

WAITS = frozenset(
    call
    for name in ("StreamSynchronize", "DeviceSynchronize", "EventSynchronize", "CtxSynchronize")
    for call in (f"cuda{name}", f"cu{name}")
)
"""Calls of the CUDA runtime and driver that return when the GPU has come so far."""
BRACKET = "cudaEventSynchronize"  # `profile_step` waits for an event before and after the step
COPIES = ("Memcpy", "Memset")  # names of what runs on the device and is no kernel begin so
LONGEST = 10
NAME_WIDTH = 100  # characters of a kernel's name in a table


@dataclass(frozen=True)
class Activity:
    """Something on the device, or a call of the CUDA runtime on the host. Calls share an id with their work."""

    name: str
    on_device: bool
    start_us: float
    end_us: float
    id: int


@dataclass(frozen=True)
class StepProfile:
    """`busy_ms`, `kernels` and `syncs` are None and `longest` is empty where nothing ran on a GPU.

    `wall_ms` is that of the profiled step, launches slowed down by the profiler; `busy_ms` the time in which at least
    one kernel or copy ran; `kernels` does not count copies and fills; `syncs` is how often the host waited;
    `longest` holds, by their total time, name, calls and microseconds.
    """

    wall_ms: float
    busy_ms: float | None = None
    kernels: int | None = None
    syncs: int | None = None
    longest: list[tuple[str, int, float]] = field(default_factory=list)

    def table(self) -> str:
        """The profile for people: a line of totals, then the longest kernels with their shares of the busy time."""
        if self.busy_ms is None:
            return f"wall {self.wall_ms:.2f} ms; nothing ran on a GPU"
        total = f"wall {self.wall_ms:.2f} ms, busy {self.busy_ms:.2f} ms, {self.kernels} kernels, {self.syncs} syncs"
        rows = [
            [name[:NAME_WIDTH], str(calls), f"{us:.1f}", f"{us / self.busy_ms / 10:.1f} %"]
            for name, calls, us in self.longest
        ]
        return f"{total}\n{format_table(['kernel', 'calls', 'us', 'of busy'], rows)}" if rows else total


def read_activities(events: Iterable[Any]) -> list[Activity]:
    """What `profile.events()` holds, without the ranges that a user or torch named, by their start."""
    found = [
        Activity(
            event.name,
            event.device_type == DeviceType.CUDA,
            event.time_range.start,
            event.time_range.end,
            event.id,
        )
        for event in events
        if not event.is_user_annotation
    ]
    return sorted(found, key=lambda activity: activity.start_us)


def bracketed(activities: Sequence[Activity]) -> list[Activity]:
    """The calls between the first and the last wait for an event, and the device's work behind these calls.

    The profiler itself waits for the device when it starts and ends. ValueError without the two waits.
    """
    waits = [activity for activity in activities if activity.name == BRACKET and not activity.on_device]
    if len(waits) < 2:
        raise ValueError(f"expected {BRACKET} before and after the step, found it {len(waits)} times")
    calls = [a for a in activities if not a.on_device and waits[0].end_us <= a.start_us < waits[-1].start_us]
    # The step's work lies between the waits too; device and host have clocks that differ by a little.
    outside = {a.id for a in activities if not a.on_device} - {call.id for call in calls}
    return sorted(
        calls + [a for a in activities if a.on_device and a.id not in outside], key=lambda a: a.start_us
    )


def busy_us(activities: Iterable[Activity]) -> float:
    """Time in which at least one of the activities, given by their start, ran."""
    busy, covered = 0.0, float("-inf")
    for activity in activities:
        busy += max(0.0, activity.end_us - max(activity.start_us, covered))
        covered = max(covered, activity.end_us)
    return busy


def count_waits(activities: Sequence[Activity]) -> int:
    """How often the host waits: explicit waits, and copies to pageable memory that no explicit wait follows."""
    calls = [activity for activity in activities if not activity.on_device]
    to_pageable = {
        a.id for a in activities if a.on_device and a.name.startswith("Memcpy DtoH") and "Pageable" in a.name
    }
    waits = 0
    for call, following in itertools.zip_longest(calls, calls[1:]):
        explicit_next = following is not None and following.name in WAITS
        blocks = call.name in WAITS or call.name in ("cudaMemcpy", "cudaMemcpy2D")
        waits += blocks or (call.id in to_pageable and not explicit_next)
    return waits


def summarize(activities: Sequence[Activity], wall_ms: float, longest: int = LONGEST) -> StepProfile:
    """The profile of a step from its activities, by their start; `longest` kernels are kept by name."""
    on_device = [activity for activity in activities if activity.on_device]
    if not on_device:
        return StepProfile(wall_ms)
    sums: dict[str, tuple[int, float]] = {}
    for activity in on_device:
        calls, us = sums.get(activity.name, (0, 0.0))
        sums[activity.name] = calls + 1, us + activity.end_us - activity.start_us
    by_time = sorted(((name, calls, us) for name, (calls, us) in sums.items()), key=lambda entry: -entry[2])
    return StepProfile(
        wall_ms,
        busy_us(on_device) / 1e3,
        sum(not activity.name.startswith(COPIES) for activity in on_device),
        count_waits(activities),
        by_time[:longest],
    )


def profile_step(step: Callable[[], object], longest: int = LONGEST) -> StepProfile:
    """Runs `step` once under the profiler, and keeps the `longest` kernels.

    Warm it up before: a first step compiles and allocates.
    """
    if not torch.cuda.is_available():
        begin = time.perf_counter()
        step()
        return StepProfile((time.perf_counter() - begin) * 1e3)

    def wait() -> None:
        event = torch.cuda.Event()
        event.record()
        event.synchronize()

    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        wait()
        begin = time.perf_counter()
        step()
        wait()
        wall_ms = (time.perf_counter() - begin) * 1e3
    return summarize(bracketed(read_activities(recorded.events())), wall_ms, longest)
