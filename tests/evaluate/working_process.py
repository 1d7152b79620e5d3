# SPDX-License-Identifier: Apache-2.0
"""What a process of an evaluation does, without an evaluation: it imports nothing, so that it starts at once."""

from __future__ import annotations

import os
from typing import Any


def work(pipe: Any, jobs: Any, threads: int) -> None:
    """Answers every job with its name; ends at one called "dies", and before it reads any where `jobs` say so."""
    if jobs.task == "dies at once":
        pipe.poll(60)  # until there is a job
        os._exit(7)
    while (job := pipe.recv()) is not None:
        if job.startswith("dies"):
            os._exit(7)
        pipe.send(0.5)
        pipe.send(f"answer to {job}")
