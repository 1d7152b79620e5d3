# SPDX-License-Identifier: Apache-2.0
"""Whole evaluations: of two checkpoints on questions, and of commands that are killed, in several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import tiny_tasks
from tiny_models import one_thread  # noqa: F401

from spanbert_ext.evaluate import evaluate_cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("evaluation")
    for seed, name in enumerate(("tokens", "spans")):
        tiny_tasks.save_checkpoint(root / name, tiny_tasks.squad_tokenizer(), seed)
    tiny_tasks.write_squad(root / "tiny_dev.json")
    return root


def arguments(folder: Path, output: str, *more: str) -> list[str]:
    return [
        *("qa", str(folder / "tokens"), str(folder / "spans"), "--data", str(folder / "tiny_dev.json")),
        *(
            "--output",
            str(folder / output),
            "--seeds",
            "1",
            "--folds",
            "3",
            "--epochs",
            "2",
            "--max-length",
            "64",
        ),
        *("--batch-size", "8", "--device", "cpu", "--no-progress", *more),
    ]


def rows(output: Path) -> dict[str, list]:
    """By the name of the result."""
    found = {}
    for path in sorted((output / "results").glob("*.json")):
        found[path.name] = json.loads(path.read_text())["rows"]
    return found


@pytest.fixture(scope="module")
def whole(folder) -> Path:
    assert evaluate_cli.main(arguments(folder, "whole")) == 0
    return folder / "whole"


def test_two_checkpoints_answer_every_question_once(whole) -> None:
    found = rows(whole)
    assert len(found) == 6
    for name in ("tokens", "spans"):
        items = [item for file, own in found.items() if f"-{name}-" in file for _, item, _ in own]
        assert len(items) == len(set(items)) == 13
    summary = json.loads((whole / "summary.json").read_text())
    assert [c["metric"] for c in summary["data"][0]["comparisons"]] == [
        "F1",
        "EM",
        "F1 with no-answer",
        "EM with no-answer",
    ]
    assert (
        summary["data"][0]["items"] == "questions" and summary["data"][0]["comparisons"][0]["clusters"] == 3
    )
    assert "tiny_dev" in (whole / "report.html").read_text()


@pytest.mark.slow
def test_several_processes_find_the_same(folder, whole) -> None:
    assert evaluate_cli.main(arguments(folder, "processes", "--processes", "2")) == 0
    assert rows(folder / "processes") == rows(whole)


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_results(folder, whole) -> None:
    command = [sys.executable, "-m", "spanbert_ext.evaluate.evaluate_cli", *arguments(folder, "killed")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for count in (1, 3):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 300
        while len(list((folder / "killed").glob("results/*.json"))) < count and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
    assert 3 <= len(rows(folder / "killed")) < 6
    assert evaluate_cli.main(arguments(folder, "killed")) == 0
    assert rows(folder / "killed") == rows(whole)
