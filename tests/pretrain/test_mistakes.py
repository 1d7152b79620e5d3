# SPDX-License-Identifier: Apache-2.0
"""`spanbert-pretrain` and mistakes, second runs, signals and full disks: nothing is lost, and it is said what to do."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from tiny_models import one_thread  # noqa: F401
from tiny_runs import (
    FULL_DISK,
    SAVED,
    STEPS,
    arguments,
    contents,
    copy_of,
    error_of,
    same_result,
)

from spanbert_ext.files import disk
from spanbert_ext.files.lock import run_lock
from spanbert_ext.pretrain import cli
from spanbert_ext.pretrain.run import checkpoints, data, saving, train, trainer

# --- Mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mistake, said",
    [
        (["--corpus", "missing.txt"], "missing.txt' does not exist"),
        (["--tokenizer", "/nowhere/at/all"], "tokenizer '/nowhere/at/all'"),
        (["--model", "/nowhere/at/all"], "/nowhere/at/all"),
        (["--block-size", "1000"], "512 positions"),
        (["--device", "cuda"], "--device is cuda"),
    ],
)
def test_a_mistake_beside_overwrite_costs_nothing(left_alone, corpus, capsys, monkeypatch, mistake, said):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = contents(left_alone)
    errors = error_of(capsys, 2, *arguments(corpus, left_alone, "--overwrite", *mistake))
    assert said in errors
    assert contents(left_alone) == before


def test_a_disk_without_room_is_said_before_anything_is_deleted(left_alone, corpus, capsys, monkeypatch):
    before = contents(left_alone)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: FULL_DISK)
    larger = ("--overwrite", "--vocab-size", "350", "--model", "mini")
    errors = error_of(capsys, 2, *arguments(corpus, left_alone, *larger))
    assert re.search(r"has 0 MB free, but checkpoints and model take 1\d\d MB", errors)
    assert contents(left_alone) == before


def test_killed_between_any_two_files_it_goes_on(left_alone, corpus, tmp_path, monkeypatch):
    """run.json is the first: whatever is there after it belongs to a run that --resume and --overwrite know."""
    output = tmp_path / "out"

    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train, "write_run_file", killed)
        with pytest.raises(Killed):
            cli.main(arguments(corpus, output))
    assert not [path for path in output.rglob("*") if path.is_file()]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "sync_tree", killed)
        with pytest.raises(Killed):
            cli.main(arguments(corpus, output))
    assert {path.name for path in output.iterdir()} >= {"run.json", ".tokenizer"}
    (output / ".tokenizer" / "tokenizer.json").write_text("{")  # cut off
    assert cli.main(["--output", str(output), "--resume"]) == 0
    assert same_result(left_alone, output)
    assert not (output / ".tokenizer").exists()


def test_a_tokenizer_that_was_edited_is_noticed(left_alone, tmp_path, capsys):
    output = copy_of(left_alone, tmp_path)
    path = output / "tokenizer" / "tokenizer.json"
    rules = json.loads(path.read_text())
    vocabulary = rules["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(rules))
    errors = error_of(capsys, 2, "--output", str(output), "--resume")
    assert "the tokenizer is not the one that the run in" in errors
    path.write_text(path.read_text()[:100])
    errors = error_of(capsys, 2, "--output", str(output), "--resume")
    assert f"cannot load tokenizer '{output}/tokenizer' (folder): " in errors
    assert errors.partition("(folder): ")[2].strip()


def test_another_number_of_processes_is_noticed(left_alone, tmp_path, capsys):
    """It would read other rows with every update."""
    output = copy_of(left_alone, tmp_path)
    checkpoints.add_to_run_file(output, processes=4)
    errors = error_of(capsys, 2, "--output", str(output), "--resume")
    assert "began with 4 processes and this one has 1: resume it with as many" in errors


def test_a_run_that_was_replaced_meanwhile_is_noticed(left_alone, tmp_path, capsys, monkeypatch):
    output = copy_of(left_alone, tmp_path)
    read = cli.read_options

    def late(given):
        options = read(given)
        run = json.loads((output / "run.json").read_text())
        run["options"]["seed"] = 5
        (output / "run.json").write_text(json.dumps(run))
        return options

    monkeypatch.setattr(cli, "read_options", late)
    assert "was replaced by another one" in error_of(capsys, 2, "--output", str(output), "--resume")


def test_an_unknown_instruction_set_is_named_before_the_text_is_read(corpus, tmp_path, capsys, monkeypatch):
    def unknown():
        raise RuntimeError("SPANBERT_EXT_CPU_CAPABILITY is 'sse9'")

    monkeypatch.setattr(train, "build_info", unknown)
    monkeypatch.setattr(train, "load_data", None)
    assert "CPU_CAPABILITY is 'sse9'" in error_of(capsys, 2, *arguments(corpus, tmp_path / "out"))


# --- Second runs, signals, full disks --------------------------------------------------------------------------


def test_a_folder_in_use_is_refused(left_alone, corpus, capsys):
    """By a process of its own, since a process may lock a file twice."""
    before = contents(left_alone)
    for more in (["--overwrite"], ["--resume"]):
        ready, done = os.pipe(), os.pipe()
        number = os.fork()
        if number == 0:
            with run_lock(left_alone):
                os.write(ready[1], b".")
                os.read(done[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
        try:
            given = (
                arguments(corpus, left_alone, *more)
                if "--resume" not in more
                else ["--output", str(left_alone), *more]
            )
            errors = error_of(capsys, 2, *given)
        finally:
            os.write(done[1], b".")
            os.waitpid(number, 0)
        assert f"--output {left_alone} is in use by another run (process {number} on " in errors
    assert contents(left_alone) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_preparing_changes_nothing(left_alone, corpus, capsys, monkeypatch, number):
    before = contents(left_alone)

    def interrupted(*_):
        signal.raise_signal(number)

    monkeypatch.setattr(train, "build_model", interrupted)
    handlers = [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert cli.main(arguments(corpus, left_alone, "--overwrite")) == 128 + number
    expected = f"Interrupted by {number.name}. Nothing was changed in {left_alone}.\n"
    assert capsys.readouterr().err.endswith(expected)
    assert contents(left_alone) == before
    assert [signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers


def test_sigterm_while_the_libraries_load(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "read_options", lambda _: signal.raise_signal(signal.SIGTERM))
    handler = signal.getsignal(signal.SIGTERM)
    assert cli.main(["--output", str(tmp_path / "out")]) == 128 + signal.SIGTERM
    assert "Interrupted by SIGTERM. Nothing was changed in" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is handler


# torch's own message on a full disk, and the system's
FULL = (
    RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 1376640 vs 1376528"),
    OSError(errno.ENOSPC, "No space left on device"),
)


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_is_named_whatever_the_error(tmp_path, monkeypatch, error):
    with (
        pytest.raises(ValueError, match="^of another kind$"),
        disk.explained("it", tmp_path / "not" / "there"),
    ):
        raise ValueError("of another kind")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: FULL_DISK)
    with (
        pytest.raises(disk.DiskError, match=f"it cannot be written to {tmp_path}: No space left on device"),
        disk.explained("it", tmp_path),
    ):
        raise error


def test_a_full_disk_at_a_checkpoint_leaves_the_last_one(corpus, tmp_path, capsys, monkeypatch):
    save, output = torch.save, tmp_path / "out"

    with monkeypatch.context() as patch:

        def full(value, path, *given, **options):
            if f"checkpoint-{STEPS}" in str(path):
                Path(path).write_bytes(b"cut off")
                patch.setattr(shutil, "disk_usage", lambda _: FULL_DISK)
                raise FULL[0]
            return save(value, path, *given, **options)

        patch.setattr(torch, "save", full)
        errors = error_of(capsys, cli.FAILED, *arguments(corpus, output))
    expected = (
        f"the checkpoint of step {STEPS} cannot be written to {output}/checkpoints: No space left on device"
    )
    assert expected in errors
    assert f"Go on from step {SAVED} with: spanbert-pretrain --output {output} --resume" in errors
    assert checkpoints.last_checkpoint(output)[0] == SAVED
    assert cli.main(["--output", str(output), "--resume"]) == 0
    assert set(checkpoints.checkpoints_by_step(output)) == {SAVED, STEPS}
    assert not list(output.rglob("checkpoints/unfinished/*"))


def test_an_error_of_ours_is_shown_whole_and_says_what_is_kept(left_alone, tmp_path, capsys, monkeypatch):
    output = copy_of(left_alone, tmp_path)
    shutil.rmtree(output / "checkpoints" / f"checkpoint-{STEPS}")

    def broken(*_, **__):
        raise ZeroDivisionError("by us")

    monkeypatch.setattr(trainer.SpanTrainer, "training_step", broken)
    assert cli.main(["--output", str(output), "--resume"]) == cli.FAILED
    errors = capsys.readouterr().err
    assert "Traceback" in errors and "error: ZeroDivisionError: by us" in errors
    assert errors.endswith(f"Go on from step {SAVED} with: spanbert-pretrain --output {output} --resume\n")


def test_the_result_is_put_in_place_whole(left_alone, tmp_path, monkeypatch):
    """Killed while the model is saved, the folder holds none or the whole of it."""
    output = copy_of(left_alone, tmp_path)
    (output / "model.safetensors").unlink()
    names = []

    class Killed(BaseException):
        pass

    def killed(folder):
        names.extend(path.name for path in Path(folder).iterdir())
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(saving, "sync_tree", killed)
        with pytest.raises(Killed):
            cli.main(["--output", str(output), "--resume"])
    assert "model.safetensors" in names and not (output / "model.safetensors").exists()
    assert cli.main(["--output", str(output), "--resume"]) == 0
    assert same_result(left_alone, output)
    assert (output / "model.safetensors").stat().st_mode == (output / "run.json").stat().st_mode


def test_data_are_read_once(left_alone):
    """What the tests above take away from `train` is what it uses."""
    assert train.load_data is data.load_data
