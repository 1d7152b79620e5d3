# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed at random moments and resumed end like one that was left alone, to the last bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")

TOOL = Path(__file__).parents[2] / "tools" / "kill_test.py"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its runs")
def test_twenty_of_twenty_killed_runs_end_equal():
    """In a process that has no threads yet: the runs are forked."""
    command = [sys.executable, str(TOOL), "--runs", "20"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "20 of 20 equal"
