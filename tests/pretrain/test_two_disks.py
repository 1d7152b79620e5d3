# SPDX-License-Identifier: Apache-2.0
"""Checkpoints on another disk than the rest of a run, by a link."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from tiny_models import one_thread  # noqa: F401
from tiny_runs import FULL_DISK, SAVED, STEPS, copy_of, same_result

from spanbert_ext.pretrain import cli
from spanbert_ext.pretrain.run import checkpoints, saving
from spanbert_ext.pretrain.run.checkpoints import RunError
from spanbert_ext.pretrain.run.room import check_room


def apart(folder: Path, disk: Path) -> None:
    """Moves the checkpoints of a run to `disk`, with a link in their place."""
    shutil.copytree(folder / "checkpoints", disk, dirs_exist_ok=True)
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").symlink_to(disk)


def no_move_between(disk: Path, monkeypatch) -> None:
    """As the system does between two file systems, of which `disk` is one."""

    def refuses(move):
        def moved(source, target, **more):
            real = (Path(os.path.realpath(path)) for path in (source, target))
            if len({path.is_relative_to(disk) for path in real}) == 2:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source), None, str(target))
            return move(source, target, **more)

        return moved

    monkeypatch.setattr(os, "replace", refuses(os.replace))
    monkeypatch.setattr(os, "rename", refuses(os.rename))


def test_a_run_ends_with_its_checkpoints_on_another_disk(left_alone, tmp_path, monkeypatch):
    """From a checkpoint on: it writes another one and the result, killed once on the way."""
    run = copy_of(left_alone, tmp_path)
    shutil.rmtree(run / "checkpoints" / f"checkpoint-{STEPS}")
    (run / "model.safetensors").unlink()
    disk = tmp_path / "disk"
    apart(run, disk)
    no_move_between(disk, monkeypatch)

    class Killed(BaseException):
        pass

    def killed(folder):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(saving, "sync_tree", killed)
        with pytest.raises(Killed):
            cli.main(["--output", str(run), "--resume"])
    assert (run / checkpoints.RESULT / "model.safetensors").exists()
    assert cli.main(["--output", str(run), "--resume"]) == 0
    assert same_result(left_alone, run)
    assert {path.name for path in run.iterdir()} == {path.name for path in left_alone.iterdir()}
    assert {path.name for path in disk.iterdir()} - {checkpoints.UNFINISHED} == {
        f"checkpoint-{step}" for step in (SAVED, STEPS)
    }


def test_what_a_killed_process_left_of_a_result_goes(tmp_path):
    (tmp_path / checkpoints.RESULT).mkdir()
    (tmp_path / checkpoints.RESULT / "model.safetensors").touch()
    checkpoints.delete_unfinished_files(tmp_path)
    assert not any(tmp_path.iterdir())
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / checkpoints.RESULT).symlink_to(tmp_path / "elsewhere")
    checkpoints.delete_unfinished_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


@pytest.fixture
def other_disk(tmp_path):
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system (/dev/shm)")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.parametrize("full", ["result", "checkpoints"])
def test_each_disk_must_have_room_for_what_goes_there(tmp_path, other_disk, monkeypatch, full):
    (tmp_path / "checkpoints").symlink_to(other_disk)
    model = torch.nn.Linear(1000, 1000, bias=False)  # 4 MB; a checkpoint has three times that
    check_room(model, tmp_path)
    device = (tmp_path if full == "result" else other_disk).stat().st_dev
    usage = shutil.disk_usage

    def one_is_full(path):
        return FULL_DISK if os.stat(path).st_dev == device else usage(path)

    monkeypatch.setattr(shutil, "disk_usage", one_is_full)
    named = {
        "result": f"--output {tmp_path} has 0 MB free, but the model takes 4 MB",
        "checkpoints": f"{tmp_path}/checkpoints has 0 MB free, but checkpoints take 36 MB",
    }
    with pytest.raises(RunError, match=named[full]):
        check_room(model, tmp_path)
    (other_disk if full == "checkpoints" else tmp_path).joinpath("old").write_bytes(bytes(36_000_000))
    check_room(model, tmp_path)  # what is there goes away


def test_checkpoints_behind_a_link_count_as_there(tmp_path, monkeypatch):
    run, beside = tmp_path / "run", tmp_path / "beside"
    run.mkdir()
    beside.mkdir()
    (run / "checkpoints").symlink_to(beside)
    model = torch.nn.Linear(1000, 1000, bias=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: FULL_DISK)
    with pytest.raises(RunError, match="but checkpoints and model take 40 MB"):
        check_room(model, run)
    (beside / "old").write_bytes(bytes(40_000_000))
    check_room(model, run)
