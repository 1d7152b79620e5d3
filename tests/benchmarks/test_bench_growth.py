# SPDX-License-Identifier: Apache-2.0
"""The benchmark of growth: a point for every shape of every axis."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench_runs import import_from_benchmarks, no_peak_memory  # noqa: F401

pytest.importorskip("matplotlib")


@pytest.mark.usefixtures("no_peak_memory")
def test_growth_has_a_point_for_every_number(tmp_path: Path) -> None:
    import bench_growth

    axes = ["--width", "tiny", "--base", "2,32", "--rows", "1,2", "--vocab", "257,514", "--length", "16,32"]
    files = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    names = ["--providers", "fused,eager_masked", "--repeats", "1", "--threads", "1"]
    assert bench_growth.main([*axes, *names, *files]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    found = {axis: [point["sizes"][axis] for point in points] for axis, points in report["axes"].items()}
    assert found == {"rows": [1, 2], "vocab": [257, 514], "length": [16, 32]}
    assert report["axes"]["rows"][1] == report["axes"]["length"][1]  # one shape, measured once
    for point in sum(report["axes"].values(), []):
        assert set(point["providers"]) == {"fused", "eager_masked"}
        assert all(entry["full_ms"]["p50"] > 0 for entry in point["providers"].values())
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
