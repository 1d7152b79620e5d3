# SPDX-License-Identifier: Apache-2.0
"""What the tests of benchmarks/ share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def import_from_benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Import it where tests should use it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)  # --threads sets it for the process


@pytest.fixture
def no_peak_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peak memory is unavailable: its process takes seconds to start. One test of each benchmark has it."""
    from support import memory
    from support.errors import Unavailable

    def executor(*_: object, **__: object) -> None:
        raise Unavailable("takes seconds")

    monkeypatch.setattr(memory, "ProcessPoolExecutor", executor)
