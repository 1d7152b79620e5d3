# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a step: its high-water mark minus what is alive after it.

Parameters, inputs and gradients are alive after a step, so they do not count. CUDA: the caching allocator's
own counters. CPU: the kernel's high-water mark of resident memory (VmHWM), reset before the step through
/proc/self/clear_refs, in a process of its own whose malloc returns every freed piece of 64 KiB or more at
once; this counts all memory, native work buffers included, which a count of tensors would not.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from support.errors import Unavailable
from support.machine import first_match

MEGABYTE = 1_000_000  # bytes; every `*_mb` in the JSON

Step = Callable[[], object]
"""Work whose memory counts; what it returns is alive after it."""


def _resident_bytes(field: str) -> int:
    found = first_match("/proc/self/status", rf"^{field}:\s*(\d+)")
    if found is None:
        raise Unavailable("this system does not report a process' resident memory in /proc/self/status")
    return int(found) * 1024


def _cpu_peak(step: Step, trim: Callable[[int], int]) -> int:
    gc.collect()
    trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present resident size
    alive = step()
    peak = _resident_bytes("VmHWM")
    gc.collect()
    trim(0)
    resident = _resident_bytes("VmRSS")
    del alive
    return peak - resident


def watch_resident_memory() -> Callable[[Step], int]:
    """Sets this process' malloc up and returns `peak(step)`, in bytes. Unavailable where VmHWM is of no use.

    Meant for a child process: the malloc settings slow every allocation down and cannot be taken back.
    """
    try:
        libc = ctypes.CDLL(None)
        mallopt, trim = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError) as error:
        raise Unavailable("peak memory on a CPU needs glibc's malloc") from error
    m_trim_threshold, m_mmap_threshold, m_arena_max = -1, -3, -8  # <malloc.h>
    if not (mallopt(m_mmap_threshold, 2**16) and mallopt(m_trim_threshold, 0) and mallopt(m_arena_max, 1)):
        raise Unavailable("glibc's malloc refused the settings that peak memory needs")

    gc.collect()
    gc.freeze()  # modules and models stay anyway: collections around a step need not look at them

    def peak(step: Step) -> int:
        return _cpu_peak(step, trim)

    known = 2**26  # a step that takes exactly this much and gives it back shows whether the method holds here
    try:
        measured = peak(lambda: torch.ones(known, dtype=torch.uint8)[-1].item())
    except OSError as error:
        raise Unavailable(f"the kernel does not reset VmHWM here ({error})") from error
    if abs(measured - known) > known // 16:
        raise Unavailable(f"VmHWM is not trustworthy here: {known} known bytes were measured as {measured}")
    return peak


def watch_cuda_memory(device: torch.device) -> Callable[[Step], int]:
    """Returns `peak(step)` in bytes, by the counters of torch's CUDA allocator."""

    def peak(step: Step) -> int:
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        alive = step()
        torch.cuda.synchronize(device)
        above = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
        del alive
        return above

    return peak


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)` in a fresh Python process; both are pickled."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_mb(peak: Callable[[Step], int], prepare: Callable[[int], Step]) -> float:
    """Peak memory in MB of the steps that `prepare(round)` makes: one warms up, then the larger of two."""
    peaks = [peak(prepare(round_)) for round_ in range(3)]
    return round(max(peaks[1:]) / MEGABYTE, 2)
