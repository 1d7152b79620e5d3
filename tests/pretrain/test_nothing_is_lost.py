# SPDX-License-Identifier: Apache-2.0
"""`spanbert-pretrain --resume` of runs with damaged checkpoints, of finished ones, and of nearly finished ones."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("transformers")

from tiny_models import one_thread  # noqa: F401
from tiny_runs import (
    SAVED,
    STEPS,
    contents,
    copy_of,
    error_of,
    same_result,
)

from spanbert_ext.pretrain import cli
from spanbert_ext.pretrain.run import checkpoints, train, trainer
from spanbert_ext.pretrain.run.run_progress import RunProgress
from spanbert_ext.pretrain.run.saving import VerifiedSaving


def test_a_damaged_checkpoint_is_passed_over_and_made_again(left_alone, tmp_path, capsys):
    output = copy_of(left_alone, tmp_path)
    damaged = output / "checkpoints" / f"checkpoint-{STEPS}"
    content = bytearray((damaged / "model.safetensors").read_bytes())
    content[-1000] ^= 1
    (damaged / "model.safetensors").write_bytes(content)
    (output / "model.safetensors").write_bytes(content[:1000])
    assert cli.main(["--output", str(output), "--resume"]) == 0
    printed = capsys.readouterr()
    assert f"Passed over {damaged}: model.safetensors is not what was written." in printed.out
    assert f"Going on from step {SAVED} of {STEPS} ({output}/checkpoints/checkpoint-{SAVED})." in printed.out
    assert "missing keys" not in printed.err  # tied weights stand in it once
    assert checkpoints.last_checkpoint(output)[0] == STEPS
    assert same_result(left_alone, output)


def test_without_checkpoints_a_resumed_run_says_that_it_begins(left_alone, tmp_path, capsys):
    output = copy_of(left_alone, tmp_path)
    shutil.rmtree(output / "checkpoints")
    assert cli.main(["--output", str(output), "--resume"]) == 0
    assert f"There is no checkpoint in {output}/checkpoints: beginning at step 0." in capsys.readouterr().out
    assert same_result(left_alone, output)


def test_with_damaged_checkpoints_alone_it_does_not_begin_anew_by_itself(left_alone, tmp_path, capsys):
    output = copy_of(left_alone, tmp_path)
    for step in (SAVED, STEPS):
        (output / "checkpoints" / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"")
    before = contents(output)
    errors = error_of(capsys, 2, "--output", str(output), "--resume")
    assert "is whole (checkpoint-6: optimizer.pt has 0 bytes" in errors and "delete them" in errors
    assert contents(output) == before


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth"])
def test_a_checkpoint_of_others_runs_no_code(left_alone, tmp_path, capsys, name):
    """One whose manifest fits, as it would."""
    output = copy_of(left_alone, tmp_path)
    shutil.rmtree(output / "checkpoints" / f"checkpoint-{STEPS}")
    hostile = output / "checkpoints" / f"checkpoint-{SAVED}"
    torch.save({"python": Harm(tmp_path / "harm"), "state": {}}, hostile / name, pickle_module=pickle)
    (hostile / checkpoints.MANIFEST).unlink()
    checkpoints.seal(hostile)
    assert cli.main(["--output", str(output), "--resume"]) == cli.FAILED
    assert "UnpicklingError" in capsys.readouterr().err
    assert not (tmp_path / "harm").exists()


def test_a_resumed_run_saves_as_often_as_it_is_told_now(left_alone, tmp_path):
    output = copy_of(left_alone, tmp_path)
    shutil.rmtree(output / "checkpoints" / f"checkpoint-{STEPS}")
    assert cli.main(["--output", str(output), "--resume", "--save-steps", "1"]) == 0
    found = checkpoints.checkpoints_by_step(output)
    assert list(found) == [STEPS, STEPS - 1]
    assert same_result(left_alone, output)


def test_a_run_that_is_only_reported_knows_which_process_it_is(left_alone):
    """The first one wrote the state. Another that took itself for it would count the sums once more."""
    progress, added = RunProgress(), []
    ranks = SimpleNamespace(
        device=torch.device("cpu"),
        is_main_process=False,
        reduce=lambda sums, how: (added.append(sums.clone()), sums)[1],
    )
    trainer_ = SimpleNamespace(
        is_world_process_zero=lambda: False,
        is_local_process_zero=lambda: False,
        is_fsdp_enabled=False,
        _load_from_checkpoint=lambda path: None,
        callback_handler=SimpleNamespace(callbacks=[progress]),
        args=None,
        control=None,
        accelerator=ranks,
        progress=progress,
    )
    VerifiedSaving.restore(trainer_, left_alone / "checkpoints" / f"checkpoint-{STEPS}")
    saved = json.loads(
        (left_alone / "checkpoints" / f"checkpoint-{STEPS}" / "trainer_state.json").read_text()
    )
    kept = saved["stateful_callbacks"]["RunProgress"]["attributes"]
    assert max(kept["sums"]) > 0 and progress.totals.tolist() == kept["totals"]
    assert [x.count_nonzero().item() for x in added] == [0]


# --- A run that is finished ------------------------------------------------------------------------------------


def test_a_finished_run_that_is_resumed_does_nothing(left_alone, capsys, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in left_alone.rglob("*")}
    monkeypatch.setattr(train, "load_data", None)  # nothing is read either
    assert cli.main(["--output", str(left_alone), "--resume"]) == 0
    assert f"is finished ({STEPS} steps): nothing is left to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in left_alone.rglob("*") if path.name != ".lock"} == before


def test_killed_before_its_report_it_takes_no_further_step(left_alone, tmp_path, monkeypatch):
    output = copy_of(left_alone, tmp_path)
    (output / "model.safetensors").write_bytes(b"cut off")
    monkeypatch.setattr(trainer.SpanTrainer, "training_step", None)
    assert cli.main(["--output", str(output), "--resume"]) == 0
    assert same_result(left_alone, output)
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (left_alone, output)]
    for name in ("steps", "tokens_seen", "eval_mlm_loss", "options"):
        folder_free = [str(m[name]).replace(str(left_alone), "O").replace(str(output), "O") for m in metrics]
        assert folder_free[0] == folder_free[1], name
    histories = [json.loads((folder / "history.json").read_text()) for folder in (left_alone, output)]
    assert [sorted(log) for log in histories[0]] == [sorted(log) for log in histories[1]]
    assert json.loads((output / "run.json").read_text())["finished"] == STEPS
