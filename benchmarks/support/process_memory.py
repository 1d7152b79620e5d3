# SPDX-License-Identifier: Apache-2.0
"""Memory of a process and all its children, by the kernel's proportional set size: a page that several share counts
once."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from support.machine import first_match
from support.memory import MEGABYTE

_INTERVAL = 0.05  # seconds


def process_tree(process: int) -> list[int]:
    """A process and what it began, directly or not, as far as it lives."""
    found = [process]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                pass
    return found


def _bytes_now(process: int) -> int:
    try:
        return int(first_match(f"/proc/{process}/smaps_rollup", r"^Pss:\s*(\d+)") or 0) * 1024
    except OSError:  # it has ended in between
        return 0


def run_watched(command: Sequence[str]) -> tuple[str, float | None]:
    """Runs a command; what it printed on stdout, and the peak of its memory in megabytes, None where the system does
    not say. Raises `subprocess.CalledProcessError`."""
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(_bytes_now, process_tree(process.pid))))
            time.sleep(_INTERVAL)
        printed = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return printed, peak / MEGABYTE if peak else None
