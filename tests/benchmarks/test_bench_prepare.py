# SPDX-License-Identifier: Apache-2.0
"""The benchmark of spanbert-prepare: a point for every number, memory of all processes, wrong shards end it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bench_runs import import_from_benchmarks  # noqa: F401

pytest.importorskip("matplotlib")

POINT = {"seconds": 2.0, "mb_s": 0.5, "tokens_s": 1e5, "peak_mb": 300.0}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"Sentence {n} says a thing. Another does not." for n in range(400)))
    return path


@pytest.fixture(autouse=True)
def no_rates(monkeypatch: pytest.MonkeyPatch, import_from_benchmarks: None) -> None:  # noqa: F811
    """Measuring what the machine can do takes seconds."""
    import bench_prepare

    monkeypatch.setattr(bench_prepare, "device_rates", lambda *_: {"copy_gb_s": 1.0})


def run(tmp_path: Path, text: Path, megabytes: str = "1,2") -> int:
    import bench_prepare

    axes = ["--megabytes", megabytes, "--workers", "1,2", "--line", "1", "--vocab-size", "200"]
    files = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    return bench_prepare.main([*axes, *files, "--text", str(text), "--scratch", str(tmp_path)])


def test_every_number_has_a_point(tmp_path, text, monkeypatch, capsys):
    import bench_prepare
    from support.tables import page

    def run_point(path: Path, workers: int, scratch: Path) -> dict:
        size = path.stat().st_size / 1e6
        lines = path.read_text().count("\n")
        assert size > 0.99 and (lines == 0) == path.name.startswith("line")
        assert (scratch / "tokenizer" / "tokenizer.json").is_file()
        return {"sizes": {"text": size, "workers": workers, "line": size}, **POINT, "shards": "same"}

    monkeypatch.setattr(bench_prepare, "run_point", run_point)
    assert run(tmp_path, text) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    found = {
        axis: [round(point["sizes"][axis]) for point in points] for axis, points in report["axes"].items()
    }
    assert found == {"text": [1, 2], "workers": [1, 2], "line": [1]}
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert "MB in one line 1: 2.0 s, 0.50 MB/s, 100,000 tokens/s, 300 MB" in capsys.readouterr().out
    assert "| workers 2 | 2 | 0.5 | 100,000 | 300 |" in page(tmp_path)


def test_shards_that_depend_on_the_processes_end_it(tmp_path, text, monkeypatch, capsys):
    import bench_prepare

    def run_point(path: Path, workers: int, scratch: Path) -> dict:
        return {"sizes": {"text": 1, "workers": workers, "line": 1}, **POINT, "shards": str(workers)}

    monkeypatch.setattr(bench_prepare, "run_point", run_point)
    assert run(tmp_path, text) == 1
    assert "depend on the number of processes" in capsys.readouterr().err
    assert json.loads((tmp_path / "out.json").read_text())["complete"] is False


@pytest.mark.slow
def test_it_measures_the_command(tmp_path, text):
    assert run(tmp_path, text, megabytes="1") == 0
    report = json.loads((tmp_path / "out.json").read_text())
    points = [point for points in report["axes"].values() for point in points]
    assert all(
        point["mb_s"] > 0 and point["tokens_s"] > 0 and 100 < point["peak_mb"] < 1_500 for point in points
    )


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux' smaps_rollup")
def test_memory_is_that_of_all_processes_and_shared_memory_counts_once():
    from support.process_memory import run_watched

    code = "import os, time\nshared = bytearray(b'x') * 50_000_000\nchild = os.fork()\n"
    code += "own = bytearray(b'y') * 30_000_000\ntime.sleep(0.6)\n"
    code += "os._exit(0) if child == 0 else os.wait()\nprint('done')"
    printed, peak = run_watched([sys.executable, "-c", code])
    assert printed == "done\n" and 110 < peak < 145
    with pytest.raises(subprocess.CalledProcessError):
        run_watched([sys.executable, "-c", "raise SystemExit(3)"])
