"""The programs around the benchmarks: growth, run_all.py and its page, the small set, device_check.sh."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import BENCHMARKS, import_from_benchmarks  # noqa: F401

pytest.importorskip("matplotlib")


def test_growth_has_a_point_for_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_growth
    import bench_sbo
    from support.errors import Unavailable

    def in_child(*_: Any) -> None:
        raise Unavailable("takes seconds a point")

    monkeypatch.setattr(bench_sbo, "in_child", in_child)
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


def test_run_all_writes_a_folder_and_never_overwrites_unasked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
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

    assert run_all.main([*arguments, "--overwrite", "--log", str(tmp_path / "log")]) == 0
    assert f"replaced  {tmp_path / 'bench_span_mask.json'}" in capsys.readouterr().err
    assert (tmp_path / "bench_span_mask.json").read_text() != before


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


def test_small_set_for_the_sanitizer_is_sound() -> None:
    from support import sanitizer_set

    assert sanitizer_set.main(["--device", "cpu"]) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("part", ["build-and-test", "all"])
def test_device_check_stops_with_one_line_where_there_is_no_gpu(part: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path / "out")}
    script = [str(BENCHMARKS / "device_check.sh"), part]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "no GPU" in done.stderr
    assert list(tmp_path.iterdir()) == []


STAND_IN = """#!/usr/bin/env bash
# answers as Python on a machine with a GPU would
echo "$*" >>"$CALLS"
folder=benchmarks/results/nvidia-stand-in
case "$*" in
    *importlib.metadata*) exit 1 ;;
    *device_name*) echo nvidia-stand-in ;;
    *get_device_capability*) echo 9.0 ;;
    *pip*) [[ ${BUILD:-works} == works ]] ;;
    *run_all.py*) cd "$REPOSITORY" && mkdir -p $folder && touch $folder/{README.md,a.json,a.png,b.png} ;;
esac
"""


def run_stand_in(
    tmp_path: Path, *arguments: str, **environment: str
) -> tuple[subprocess.CompletedProcess, list[str]]:
    """device_check.sh in a copy of the tree, with a Python that only notes what it is asked."""
    repository, calls = tmp_path / "repository", tmp_path / "calls"
    if not repository.exists():
        for folder in ("benchmarks", "csrc", "cmake", "tools", "spanbert_ext"):
            shutil.copytree(
                BENCHMARKS.parent / folder,
                repository / folder,
                ignore=shutil.ignore_patterns("*.so", "__pycache__", "results"),
            )
        for name in ("CMakeLists.txt", "setup.py", "pyproject.toml"):
            shutil.copy(BENCHMARKS.parent / name, repository)
        (repository / "tests" / "ops").mkdir(parents=True)
        (repository / "tests" / "ops" / "test_kernels.py").write_text("pytestmark = pytest.mark.needs_cuda\n")
        (repository / "tests" / "ops" / "test_data.py").write_text(
            "import datasets\n\n@pytest.mark.needs_cuda\n"
        )
        (tmp_path / "python").write_text(STAND_IN)
        (tmp_path / "python").chmod(0o755)
    calls.unlink(missing_ok=True)
    given = {
        **{name: value for name, value in os.environ.items() if name != "TORCH_CUDA_ARCH_LIST"},
        "PYTHON": str(tmp_path / "python"),
        "CALLS": str(calls),
        "REPOSITORY": str(repository),
        "OUT": str(tmp_path / "out"),
        **environment,
    }
    script = [str(repository / "benchmarks" / "device_check.sh"), *arguments]
    done = subprocess.run(script, capture_output=True, text=True, env=given)
    return done, calls.read_text().splitlines()


def test_device_check_builds_once_and_hands_over_four_files(tmp_path: Path) -> None:
    done, calls = run_stand_in(tmp_path, "build-and-test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum("pip install --no-build-isolation --no-deps" in call for call in calls) == 1
    (tests,) = [call for call in calls if "-m pytest" in call]
    assert "-m needs_cuda" in tests and "test_kernels.py" in tests and "test_data.py" not in tests
    assert "datasets is not installed" in done.stdout

    done, calls = run_stand_in(tmp_path, "head", "--overwrite")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not any("pip install" in call for call in calls)  # the sources are the same
    (run,) = [call for call in calls if "run_all.py" in call]
    assert "--parts head" in run and run.endswith("--overwrite")
    shutil.rmtree(tmp_path / "out")
    run_stand_in(tmp_path, "step")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "device_check-step.log",
        "results-step.tar.gz",
        "README.md",
        "a.png",
    }

    (tmp_path / "repository" / "csrc" / "new.h").touch()
    _, calls = run_stand_in(tmp_path, "head")
    assert any("pip install" in call for call in calls)


def test_device_check_says_what_failed(tmp_path: Path) -> None:
    done, calls = run_stand_in(tmp_path, "head", BUILD="fails")
    assert done.returncode == 1 and "FAILED: the build" in done.stdout
    assert not any("run_all.py" in call for call in calls)
