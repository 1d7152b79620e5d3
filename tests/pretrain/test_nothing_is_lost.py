"""`spanbert-pretrain` when something goes wrong around it: checkpoints, mistakes, second runs, signals, full disks."""

from __future__ import annotations

import errno
import itertools
import json
import os
import pickle
import shutil
import signal
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from tiny_models import one_thread  # noqa: F401

from spanbert_ext.pretrain import checkpoints, cli, data, disk, saving, train, trainer
from spanbert_ext.pretrain.builtin_corpus import builtin_documents
from spanbert_ext.pretrain.lock import run_lock

STEPS, SAVED = 6, 4
FULL_DISK = shutil._ntuple_diskusage(10**9, 10**9, 4096)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("\n\n".join(text[:1500] for _, text in itertools.islice(builtin_documents(), 8)))
    return path


def arguments(corpus: Path, output: Path, *more: str) -> list[str]:
    return [
        *("--corpus", str(corpus), "--output", str(output), "--cache-dir", str(corpus.parent / "cache")),
        *("--max-steps", str(STEPS), "--eval-steps", str(STEPS), "--save-steps", str(SAVED)),
        *("--logging-steps", "5", "--batch-size", "4", "--block-size", "32", "--vocab-size", "300"),
        *(
            "--held-out",
            "0.3",
            "--dropout",
            "0.1",
            "--device",
            "cpu",
            "--samples",
            "0",
            "--no-progress",
            *more,
        ),
    ]


@pytest.fixture(scope="module")
def left_alone(corpus, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("run") / "out"
    assert cli.main(arguments(corpus, output)) == 0
    return output


def copy_of(run: Path, folder: Path) -> Path:
    """A copy of a finished run, as if it had been killed before its report."""
    output = folder / "out"
    shutil.copytree(run, output)
    (output / "metrics.json").unlink()
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def error_of(capsys, status: int, *given: str) -> str:
    assert cli.main([*given, "--no-progress"]) == status
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return errors


def same_result(a: Path, b: Path) -> bool:
    names = ("model.safetensors", "losses.png", f"checkpoints/checkpoint-{STEPS}/optimizer.pt")
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in names)


# --- Damaged checkpoints ---------------------------------------------------------------------------------------


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


# --- Mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mistake, said",
    [
        (["--corpus", "missing.txt"], "'missing.txt' does not exist"),
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
    large = ("--overwrite", "--vocab-size", "350", "--model", "base")
    errors = error_of(capsys, 2, *arguments(corpus, left_alone, *large))
    assert "has 0 MB free, but checkpoints and model take 3," in errors
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
