# SPDX-License-Identifier: Apache-2.0
"""device_check.sh with a stand-in for Python: what it builds and runs, the files it copies to $OUT, failures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from bench_runs import BENCHMARKS

SCRIPT = BENCHMARKS / "device_check.sh"
PARTS = ("build-and-test", "sanitize", "head", "step", "all", "tune", "run-a", "run-b", "site", "stamp")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("part", ["build-and-test", "all"])
def test_device_check_stops_with_one_line_where_there_is_no_gpu(part: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path / "out")}
    script = [str(SCRIPT), part]
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
    """device_check.sh in a copy of the tree, with a stand-in for Python that only writes its arguments down."""
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


def stamp(tmp_path: Path, architecture: str = "9.0") -> str:
    done, _ = run_stand_in(tmp_path, "stamp", TORCH_CUDA_ARCH_LIST=architecture)
    assert done.returncode == 0 and done.stderr == ""
    return done.stdout.strip()


@pytest.fixture
def with_site(tmp_path: Path) -> Path:
    """A copy of the tree with a build that was made without a GPU, and tests that the short parts run."""
    done, calls = run_stand_in(tmp_path, "site", TORCH_CUDA_ARCH_LIST="9.0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum("pip install" in call for call in calls) == 1 and "-m spanbert_ext" in calls[-1]
    marks = dict.fromkeys(("vocab_ce_cuda", "boundary_mlp_cuda", "span_mask_cuda"), "pytest.mark.needs_cuda")
    for name, mark in {**marks, "boundary_mlp_tokens": "on_cuda_code", "vocab_ce": "skip"}.items():
        (tmp_path / "repository" / "tests" / "ops" / f"test_{name}.py").write_text(f"@{mark}\n")
    return tmp_path


def test_help_names_every_part() -> None:
    done = subprocess.run([str(SCRIPT), "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for part in PARTS:
        assert part in done.stdout


def test_the_stamp_is_of_sources_and_architecture(tmp_path: Path) -> None:
    first = stamp(tmp_path)
    assert len(first) == 64 and stamp(tmp_path) == first
    assert stamp(tmp_path, "10.0") != first
    (tmp_path / "repository" / "tests" / "ops" / "test_more.py").touch()
    assert stamp(tmp_path) == first  # not built in
    (tmp_path / "repository" / "cmake" / "More.cmake").touch()
    assert stamp(tmp_path) != first


@pytest.mark.parametrize("part", ["site", "stamp"])
def test_without_a_gpu_the_architecture_has_to_be_named(part: str, tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": "false"}
    done = subprocess.run([str(SCRIPT), part], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 1 and "needs TORCH_CUDA_ARCH_LIST" in done.stderr


@pytest.mark.parametrize("part", ["tune", "run-a"])
def test_tuning_uses_the_build_that_was_brought_along(part: str, with_site: Path) -> None:
    done, calls = run_stand_in(with_site, part, "--parts", "rates")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not any("pip install" in call for call in calls)
    assert "compiled beforehand, without a GPU, nothing is compiled now" in done.stdout
    (tests,) = [call for call in calls if "-m pytest" in call]
    assert (
        "-m needs_cuda" in tests and "test_vocab_ce_cuda.py" in tests and "test_boundary_mlp_cuda.py" in tests
    )
    assert "test_boundary_mlp_tokens.py" in tests and "test_vocab_ce.py" not in tests
    assert "span_mask" not in tests
    (tuner,) = [call for call in calls if "tune_cuda.py" in call]
    assert "--limit 240 --output" in tuner and tuner.endswith("--parts rates")
    assert calls.index(tests) < calls.index(tuner)
    names = {path.name for path in (with_site / "out").iterdir()}
    assert names == {f"device_check-{part}.log", f"{part}.tar.gz", f"{part}.txt"}


def test_every_sanitizer_runs_the_small_set_where_its_imports_are_found(with_site: Path) -> None:
    tool = with_site / "tools" / "compute-sanitizer"
    tool.parent.mkdir()
    tool.write_text('#!/usr/bin/env bash\necho "sanitizer in $PWD: $*" >>"$CALLS"\n')
    tool.chmod(0o755)
    done, calls = run_stand_in(with_site, "sanitize", PATH=f"{tool.parent}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = [call for call in calls if call.endswith("-m support.sanitizer_set")]
    assert len(runs) == 5  # first without a tool
    for name, run in zip(("memcheck", "racecheck", "initcheck", "synccheck"), runs[1:], strict=True):
        assert run.startswith(f"sanitizer in {with_site / 'repository' / 'benchmarks'}: --tool {name} ")


def test_a_site_of_another_architecture_is_not_used(with_site: Path) -> None:
    done, calls = run_stand_in(with_site, "tune", TORCH_CUDA_ARCH_LIST="10.0")
    assert "of other sources, another torch, Python or architecture" in done.stdout
    assert sum("pip install" in call for call in calls) == 1


def test_run_b_compares_heads_and_steps_with_an_older_commit(with_site: Path) -> None:
    done, calls = run_stand_in(with_site, "run-b")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = [call.partition("benchmarks/")[2] for call in calls if "bench_" in call]
    assert sum(run.startswith("bench_sbo.py") for run in runs) == 5
    assert sum("--vocab 29056" in run for run in runs) == 2
    steps = [run for run in runs if run.startswith("bench_step.py")]
    assert ["--modes eager" in step for step in steps] == [True, False] and "--modes layers,model" in steps[1]

    (with_site / "repository" / "build" / "device" / "site-baseline" / "spanbert_ext").mkdir(parents=True)
    done, calls = run_stand_in(with_site, "run-b")
    baseline = [call for call in calls if "baseline-base" in call]
    assert len(baseline) == 2 and all("--providers fused" in call for call in baseline)
    with tarfile.open(with_site / "out" / "run-b.tar.gz") as archive:
        assert "run-b/baseline-base-32x512.txt" in archive.getnames()
    assert len(list((with_site / "out").iterdir())) <= 8


def test_an_older_commit_is_built_beside_the_present_one(with_site: Path) -> None:
    repository = with_site / "repository"
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (
        ["init", "--quiet"],
        ["add", "setup.py", "csrc"],
        [*who, "commit", "--quiet", "-m", "old"],
    ):
        subprocess.run(["git", "-C", str(repository), *command], check=True)
    done, calls = run_stand_in(with_site, "site", TORCH_CUDA_ARCH_LIST="9.0", BASELINE="HEAD")
    assert done.returncode == 0, done.stdout + done.stderr
    (install,) = [call for call in calls if "pip install" in call]
    assert f"--target {repository}/build/device/site-baseline" in install
    assert (repository / "build" / "baseline" / "setup.py").exists()  # only what was committed
    assert not (repository / "build" / "baseline" / "tools").exists()
    assert len((repository / "build" / "device" / "stamp-baseline").read_text().strip()) == 40
    done, _ = run_stand_in(with_site, "site", TORCH_CUDA_ARCH_LIST="9.0", BASELINE="HEAD", BUILD="fails")
    assert done.returncode == 1 and "FAILED: the build of HEAD" in done.stdout


def test_a_part_that_fails_is_named_and_the_next_one_still_runs(with_site: Path) -> None:
    python = with_site / "python"
    python.write_text(python.read_text().replace("*pip*)", "*pytest*) exit 1 ;;\n    *pip*)"))
    done, calls = run_stand_in(with_site, "run-a")
    assert done.returncode == 1 and "FAILED: CUDA tests" in done.stdout
    assert any("tune_cuda.py" in call for call in calls)
