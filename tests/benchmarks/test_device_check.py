"""device_check.sh around a build that is brought along, and the parts for a GPU that is lent for minutes."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest
from bench_runs import BENCHMARKS
from test_run_all import run_stand_in

SCRIPT = BENCHMARKS / "device_check.sh"
PARTS = ("build-and-test", "sanitize", "head", "step", "all", "tune", "run-a", "run-b", "site", "stamp")


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
    for name in ("vocab_ce_cuda", "boundary_mlp_cuda", "span_mask_cuda"):
        (tmp_path / "repository" / "tests" / "ops" / f"test_{name}.py").write_text(
            "pytestmark = pytest.mark.needs_cuda\n"
        )
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
    assert "span_mask" not in tests
    (tuner,) = [call for call in calls if "tune_cuda.py" in call]
    assert "--limit 240 --output" in tuner and tuner.endswith("--parts rates")
    assert calls.index(tests) < calls.index(tuner)
    names = {path.name for path in (with_site / "out").iterdir()}
    assert names == {f"device_check-{part}.log", f"{part}.tar.gz", f"{part}.txt"}


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
