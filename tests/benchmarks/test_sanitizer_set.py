# SPDX-License-Identifier: Apache-2.0
"""The small calls of every operator that compute-sanitizer watches."""

from __future__ import annotations

from bench_runs import import_from_benchmarks  # noqa: F401


def test_small_set_for_the_sanitizer_is_sound() -> None:
    from support import sanitizer_set

    assert sanitizer_set.main(["--device", "cpu"]) == 0
