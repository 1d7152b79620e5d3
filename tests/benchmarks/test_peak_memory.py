# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a step, measured by a child process on steps whose peaks are known."""

from __future__ import annotations

import pytest
import torch
from bench_runs import import_from_benchmarks  # noqa: F401


def _known_peaks() -> list[float]:
    from support.memory import peak_mb, watch_resident_memory

    peak = watch_resident_memory()

    def step(freed: int, kept: int) -> torch.Tensor:
        torch.ones(freed // 4)
        return torch.ones(kept // 4)

    sizes = [(40_000_000, 0), (40_000_000, 10_000_000), (10_000_000, 40_000_000), (100_000, 0)]
    return [peak_mb(peak, lambda _, f=f, k=k: lambda: step(f, k)) for f, k in sizes]


def test_peak_memory_is_the_high_water_mark_minus_what_stays_alive() -> None:
    from support.errors import Unavailable
    from support.memory import in_child

    try:
        measured = in_child(_known_peaks)
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert measured == pytest.approx([40, 30, 0, 0.1], abs=0.5)
