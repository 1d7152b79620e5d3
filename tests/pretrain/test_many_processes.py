# SPDX-License-Identifier: Apache-2.0
"""`spanbert-pretrain` under torchrun and accelerate launch: it learns what one process does on the same rows, and one
process writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import tiny_runs
import torch
from transformers import AutoModelForMaskedLM

from spanbert_ext.pretrain import cli
from spanbert_ext.pretrain.run import checkpoints
from spanbert_ext.pretrain.run.run_progress import MEASURED

STEPS = 12
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [
    *("accelerate.commands.launch", "--num_machines", "1", "--main_process_port", "0"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
]
COMMAND = ["-m", "spanbert_ext.pretrain.cli"]
SHARDED = [str(Path(__file__).with_name("sharded_on_cpus.py"))]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return tiny_runs.write_corpus(tmp_path_factory.mktemp("corpus"), documents=12, characters=3000)


def arguments(corpus: Path, output: Path, rows: int, steps: int = STEPS) -> list[str]:
    own = [
        *("--max-steps", str(steps), "--eval-steps", "6", "--save-steps", "5", "--logging-steps", "1"),
        *("--batch-size", str(rows), "--held-out", "0.2", "--dropout", "0", "--samples", "2"),
    ]
    return tiny_runs.arguments(corpus, output, *own)


def launched(given: list[str], launcher: Sequence[str] = (*TORCHRUN, *COMMAND)) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> tuple[str, str]:
    try:
        return process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def complete(given: list[str], launcher: Sequence[str] = (*TORCHRUN, *COMMAND)) -> str:
    """What a run prints that ends well."""
    process = launched(given, launcher)
    printed, errors = finish(process)
    assert process.returncode == 0, errors
    return printed


def history(output: Path) -> list[dict]:
    logs = json.loads((output / "history.json").read_text())
    # Trainer's own loss of an evaluation is a mean of batches, of which two processes make others
    left_out = MEASURED | {"eval_loss", "eval_spans_loss", "eval_tokens_loss"}
    return [{name: x for name, x in log.items() if name not in left_out} for log in logs]


@pytest.fixture(scope="module")
def one(corpus, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("one") / "out"
    assert cli.main(arguments(corpus, output, rows=8)) == 0
    return output


def assert_learned_the_same(output: Path, one: Path) -> None:
    assert len(history(one)) == len(history(output)) > STEPS
    for expected, log in zip(history(one), history(output), strict=True):
        assert log == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_two_processes_learn_what_one_does_and_go_on_after_a_resume(corpus, one, tmp_path):
    output = tmp_path / "out"
    printed = complete(arguments(corpus, output, rows=4))
    assert_learned_the_same(output, one)
    assert printed.count("Held out: ") == printed.count("Held-out text (") == 1
    assert len(list((output / "tensorboard").glob("events.*"))) == 1
    last = output / "checkpoints" / f"checkpoint-{STEPS}"
    assert {path.name for path in last.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    assert checkpoints.damage(last) is None
    assert not (output / ".lock").exists()

    (last / "optimizer.pt").write_bytes(b"damaged")
    (output / "metrics.json").unlink()
    printed = complete(["--output", str(output), "--resume"])
    assert printed.count("Passed over") == printed.count("Going on from step 10 of 12") == 1
    assert_learned_the_same(output, one)


def test_accelerate_launch(corpus, one, tmp_path):
    output = tmp_path / "out"
    printed = complete(
        arguments(corpus, output, rows=4), [*ACCELERATE, "--multi_gpu", "--num_processes", "2", *COMMAND]
    )
    assert "on 2 processes" in " ".join(printed.split())  # lines are as long as the terminal
    assert_learned_the_same(output, one)


def test_a_sharded_model_learns_what_a_whole_one_does(corpus, tmp_path, capsys):
    """The recipe has an NSP head, a matrix of two rows, of which the third process has none, and its own optimizer."""
    recipe = ["--recipe", "bert", "--model", "demo", "--short-block-size", "24"]
    whole, output = tmp_path / "whole", tmp_path / "sharded"
    assert cli.main([*arguments(corpus, whole, rows=12), *recipe]) == 0
    launcher = [*ACCELERATE, "--num_processes", "3", "--use_fsdp", "--fsdp_version", "2", *SHARDED]
    printed = complete([*arguments(corpus, output, rows=4), *recipe], launcher)
    assert "on 3 processes" in " ".join(printed.split())  # lines are as long as the terminal
    assert_learned_the_same(output, whole)
    models = [AutoModelForMaskedLM.from_pretrained(folder) for folder in (whole, output)]
    expected, found = (dict(model.named_parameters()) for model in models)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)

    last = output / "checkpoints" / f"checkpoint-{STEPS}"
    assert checkpoints.damage(last) is None
    learned = (output / "model.safetensors").read_bytes()
    (last / "optimizer.bin").write_bytes(b"damaged")
    (output / "metrics.json").unlink()
    printed = complete(["--output", str(output), "--resume"], launcher)
    assert printed.count("Passed over") == printed.count("Going on from step 10 of 12") == 1
    assert (output / "model.safetensors").read_bytes() == learned
    assert_learned_the_same(output, whole)

    (output / "metrics.json").unlink()
    assert "of a model that was sharded" in tiny_runs.error_of(capsys, 2, "--output", str(output), "--resume")


def test_a_mistake_is_said_once(corpus, tmp_path):
    given = arguments(corpus, tmp_path / "out", rows=4)
    given[1] = str(tmp_path / "missing.txt")
    process = launched(given)
    _, errors = finish(process)
    assert process.returncode != 0
    assert errors.count("missing.txt' does not exist") == 1
    assert "spanbert_ext/pretrain" not in errors  # no traceback but torchrun's


def test_sigterm_ends_all_processes_after_the_same_step(corpus, tmp_path):
    output = tmp_path / "out"
    process = launched(arguments(corpus, output, rows=4, steps=100_000))
    try:
        while not list(output.glob("checkpoints/checkpoint-*")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
    finally:
        _, errors = finish(process)
    assert process.returncode != 0
    assert f"Go on from step {checkpoints.last_checkpoint(output)[0]:,} with: " in errors
