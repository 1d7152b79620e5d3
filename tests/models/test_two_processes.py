# SPDX-License-Identifier: Apache-2.0
"""Two processes (gloo) by torchrun and by accelerate's launcher: what one process makes of the rows of both.

`two_processes.py` runs all cases of a launcher in one start, and after them the scripts of tests/scripts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from evaluations import all_ways
from script_runs import KINDS, check_loop, check_saved, check_trainer, runs_of, write_inputs
from tiny_models import one_thread  # noqa: F401

import spanbert_ext

HERE = Path(__file__).resolve().parent
LAUNCHERS = {
    "torchrun": [
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0",
    ],
    "accelerate": [
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"),
        *("--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"),
    ],
}
SKEWED = {"max_rows": 256, "max_read_rows": 512, "all_text": False}  # as in test_loaders.py
FLOAT32 = 2e-6
FLOAT64 = 1e-10


def failure(errors: str) -> str:
    """The first exception, or where the threads of a process were that got no further, or the end."""
    begins = [at for at in map(errors.find, ("Traceback (", "Timeout (")) if at >= 0]
    return errors[min(begins) :][:8000] if begins else errors[-8000:]


def launch(launcher: str, folder: Path, scripts: list) -> dict:
    """The first process's report, after checking that the second one's is the same. Then the scripts have run too."""
    (folder / "runs.json").write_text(json.dumps(scripts))
    paths = [
        HERE,
        HERE.parent,
        HERE.parent / "masking",
        Path(spanbert_ext.__file__).parents[1],
        os.environ.get("PYTHONPATH", ""),
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(folder),  # no configuration of the user's
    }
    command = [
        sys.executable,
        "-m",
        *LAUNCHERS[launcher],
        str(HERE / "two_processes.py"),
        str(folder),
        launcher,
    ]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, failure(run.stderr)
    first, second = (json.loads((folder / f"{launcher}-{rank}.json").read_text()) for rank in range(2))
    printed = first.pop("example", None), second.pop("example", None)
    assert first == second
    return first | {"example": printed, "folder": folder}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def torchrun(tmp_path_factory, inputs) -> dict:
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "evaluations").mkdir()
    evaluations = (str(HERE / "evaluations.py"), [str(folder / "evaluations"), "4"])
    return launch("torchrun", folder, [*runs_of("trainer", inputs, folder), evaluations])


@pytest.fixture(scope="module")
def accelerate(tmp_path_factory, inputs) -> dict:
    folder = tmp_path_factory.mktemp("accelerate")
    return launch("accelerate", folder, runs_of("loop", inputs, folder))


def check_step(cases: dict, tolerance: float) -> None:
    ragged, empty = cases["ragged rows"]["shapes"], cases["a rank without masked tokens"]["shapes"]
    assert ragged[0][1] != ragged[1][1] and ragged[0][2] != ragged[1][2]  # L and K differ
    assert empty[0][3] > 0 and empty[1][3] == 0
    for case, errors in cases.items():
        for name in ("loss", "gradient", "weights"):
            assert errors[name] < tolerance, (case, name)


def test_distributed_data_parallel(torchrun):
    check_step(torchrun["ddp"], FLOAT32)
    check_step(torchrun["ddp, float64"], FLOAT64)


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_fully_sharded(request, launcher):
    check_step(request.getfixturevalue(launcher)["fsdp2"], FLOAT32)


def test_fully_sharded_module_by_module(torchrun):
    """As test_sharded.py does in one process."""
    assert torchrun["fsdp2, each module"] == ""


@pytest.mark.parametrize(
    ("launcher", "case", "updates"),
    [
        ("torchrun", "trainer", 4),  # two epochs of 12 rows: 8 and a remainder of 4
        ("torchrun", "trainer, pairs", 4),
        ("torchrun", "trainer, counts by process", 4),
        ("torchrun", "trainer, resumed", 7),
        ("accelerate", "stream, dispatched", 1),
        ("accelerate", "stream, read by each", 1),
    ],
)
def test_trainer(request, launcher, case, updates):
    report = request.getfixturevalue(launcher)[case]
    assert report["world"] == 2 and len(report["updates"]) == updates
    assert max(report["updates"]) < FLOAT64
    assert max(report["evaluation"]) < 1e-6


def test_the_example(torchrun):
    first, second = torchrun["example"]
    losses = [float(line.rpartition(" ")[2]) for line in first]
    assert len(losses) == 5 and min(losses[1:]) < losses[0] - 0.3 and second == []


def test_a_loop_under_accelerate(accelerate):
    report = accelerate["loop"]
    assert all(report[name] < FLOAT32 for name in ("loss", "gradient", "weights", "evaluation"))
    assert report["evaluated"] == 7  # gather_for_metrics drops the row that fills the last batch


def test_row_bounds_under_accelerate(accelerate):
    report = accelerate["row bounds"]
    assert report["seen"] == {"auto": [SKEWED] * 2, "False": [{}] * 2}
    assert report["close"] and report["largest"] > 0
    assert report["equal"] == 2  # both processes have the first one's gradient
    assert report["dispatched"] == [48, 48]


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_with_trainer(torchrun, kind):
    check_trainer(torchrun["folder"] / kind, kind, processes=2)
    check_saved(torchrun["folder"] / kind, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_with_a_loop(accelerate, kind):
    check_loop(accelerate["folder"] / kind, processes=2)
    check_saved(accelerate["folder"] / kind, kind)


def test_evaluations(torchrun, tmp_path):
    """Whatever is read of them, those of two processes are those of one with twice the batch."""
    expected = all_ways(str(tmp_path), 8)
    assert [x.pop("logits") for x in expected.values()] == [True, False, False, False]
    for rank in range(2):
        found = json.loads((torchrun["folder"] / "evaluations" / f"evaluations-{rank}.json").read_text())
        assert [x.pop("logits") for x in found.values()] == [True, False, False, False]
        for way, numbers in expected.items():
            assert found[way] == pytest.approx(numbers, rel=1e-5), way
