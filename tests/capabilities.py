"""Runs tests again with a lower instruction set, which a process chooses once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from spanbert_ext import build_info

CAPABILITIES = ("default", "avx2", "avx512")


def skip_where_missing(capability: str) -> None:
    best = str(build_info()["cpu_capability"])
    if CAPABILITIES.index(capability) > CAPABILITIES.index(best):
        pytest.skip(f"this CPU has no {capability}, or may not use it: {best} is the best")


def run_tests_with(capability: str, file: str, selected: str) -> None:
    """The tests of `file` that `selected` (pytest's -k) names, in a process of their own; they must pass."""
    skip_where_missing(capability)
    if capability == build_info()["cpu_capability"]:
        pytest.skip(f"{capability} is what this process runs the same tests with")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, "-k", selected],
        check=False,
        env={**os.environ, "SPANBERT_EXT_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
