"""Runs tests again with a lower instruction set, which a process chooses once."""

from __future__ import annotations

import os
import subprocess
import sys

CAPABILITIES = ("default", "avx2", "avx512")


def run_tests_with(capability: str, file: str, selected: str) -> None:
    """The tests of `file` that `selected` (pytest's -k) names, in a process of their own; they must pass."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, "-k", selected],
        check=False,
        env={**os.environ, "SPANBERT_EXT_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
