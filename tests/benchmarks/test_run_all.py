# SPDX-License-Identifier: Apache-2.0
"""run_all.py: a folder of reports and its page, what it refuses, and what it keeps of a benchmark that is stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench_runs import BENCHMARKS, import_from_benchmarks  # noqa: F401

pytest.importorskip("matplotlib")


def test_run_all_writes_a_folder_and_never_overwrites_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import run_all

    arguments = ["--device", "cpu", "--quick", "--parts", "masking", "--output", str(tmp_path)]
    assert run_all.main([*arguments, "--log", str(tmp_path / "log")]) == 0
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"bench_span_mask.json", "bench_span_mask.png", "README.md", "log"}
    assert "## Masking: 8 x 64 tokens" in (tmp_path / "README.md").read_text()

    before = (tmp_path / "bench_span_mask.json").read_text()
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run_all.main(arguments)
    assert stopped.value.code == 2
    assert "bench_span_mask.json already" in capsys.readouterr().err
    assert (tmp_path / "bench_span_mask.json").read_text() == before

    again = json.dumps({**json.loads(before), "commit": "the second run"})

    def run_job(job: Any, device: str, scratch: Path, log: Path | None, limit: float) -> None:
        (scratch / f"{job.name}.json").write_text(again)

    monkeypatch.setattr(run_all, "run_job", run_job)  # one benchmark that really runs is enough
    assert run_all.main([*arguments, "--overwrite", "--log", str(tmp_path / "log")]) == 0
    assert f"replaced  {tmp_path / 'bench_span_mask.json'}" in capsys.readouterr().err
    assert (tmp_path / "bench_span_mask.json").read_text() == again != before


def test_run_all_spares_a_page_that_it_did_not_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import run_all

    (tmp_path / "README.md").write_text("# Mine")
    with pytest.raises(SystemExit):
        run_all.main(["--device", "cpu", "--quick", "--output", str(tmp_path), "--overwrite"])
    assert "not written by this program" in capsys.readouterr().err


def test_run_all_reports_what_fails_or_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import run_all

    broken = run_all.Job("masking", "bench_span_mask.py", "broken", ("--rows", "0"))
    slow = run_all.Job("masking", "bench_span_mask.py", "slow", ())
    late = run_all.Job("masking", "bench_span_mask.py", "late", ())
    monkeypatch.setattr(run_all, "quick_plan", lambda: [broken, slow, late])
    log = ["--log", str(tmp_path / "log")]
    limits = ["--timeout", "30", "--budget", "0.5"]  # less than an import of torch takes
    assert (
        run_all.main(["--device", "cpu", "--quick", "--output", str(tmp_path / "results"), *log, *limits])
        == 1
    )
    error = capsys.readouterr().err
    assert "no complete report of broken, slow, late" in error
    assert "late: not started: the budget is used up" in error
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["README.md"]


def test_run_all_keeps_what_a_stopped_benchmark_had_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import run_all

    job = run_all.Job("step", "bench_step.py", "bench_step-tiny", ())
    (tmp_path / "bench_step-tiny.png").write_text("of an earlier report")

    def run_job(job: Any, device: str, scratch: Path, log: Path | None, limit: float) -> str:
        (scratch / "bench_step-tiny.json").write_text(json.dumps({"benchmark": "another", "complete": False}))
        return "stopped after 1 s"

    monkeypatch.setattr(run_all, "run_job", run_job)
    monkeypatch.setattr(run_all, "quick_plan", lambda: [job])
    assert run_all.main(["--device", "cpu", "--quick", "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "stopped after 1 s" in error and "no complete report of bench_step-tiny" in error
    assert {path.name for path in tmp_path.iterdir()} == {"bench_step-tiny.json", "README.md"}


@pytest.mark.parametrize("plan", ["cpu_plan", "cuda_plan", "quick_plan"])
def test_every_planned_run_has_a_name_of_its_own_and_options_that_exist(
    plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    import run_all

    jobs = getattr(run_all, plan)()
    assert len({job.name for job in jobs}) == len(jobs)
    assert {job.part for job in jobs} == set(run_all.PARTS)
    for job in jobs:
        importlib.import_module(job.script.removesuffix(".py")).parse(job.arguments)


def test_folder_is_named_after_the_machine() -> None:
    from support.machine import device_name

    assert device_name({"cores": 2, "cpu_capability": "AVX512"}) == "cpu-2core-avx512"
    assert device_name({"gpu": "NVIDIA H200", "cores": 2, "cpu_capability": "AVX2"}) == "nvidia-h200"
