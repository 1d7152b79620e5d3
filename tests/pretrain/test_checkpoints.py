# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that were damaged are seen and passed over; the output folder is checked before anything is deleted."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from spanbert_ext.files import disk
from spanbert_ext.pretrain.run import checkpoints
from spanbert_ext.pretrain.run.checkpoints import (
    CHECKPOINTS,
    MANIFEST,
    RunError,
    check_output,
    damage,
    delete_run,
    last_checkpoint,
    publish,
    seal,
)
from spanbert_ext.pretrain.settings.options import OptionError, Options, load_options

WEIGHTS = bytes(range(256)) * 20


def make_checkpoint(folder: Path, step: int) -> Path:
    path = folder / CHECKPOINTS / f"checkpoint-{step}"
    (path / "shards").mkdir(parents=True)
    (path / "model.safetensors").write_bytes(WEIGHTS)
    (path / "shards" / "0.bin").write_bytes(WEIGHTS[:1000])
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    seal(path)
    return path


def test_a_whole_checkpoint_has_its_manifest_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(disk, "sync", lambda path: synced.append(Path(path)))
    path = make_checkpoint(tmp_path, 5)
    os.chmod(path / "model.safetensors", 0o600)
    files = json.loads((path / MANIFEST).read_text())["files"]
    assert set(files) == {"model.safetensors", "shards/0.bin", "trainer_state.json"}
    assert files["shards/0.bin"]["size"] == 1000
    assert files["model.safetensors"]["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert damage(path) is None
    assert set(synced) == {path, path / "shards", path / MANIFEST, *(path / name for name in files)}
    disk.sync_tree(path)  # others may read what safetensors wrote for its owner alone
    assert (path / "model.safetensors").stat().st_mode == (path / MANIFEST).stat().st_mode


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm, said",
    [
        (cut, "has .* bytes, expected"),
        (zero, "is not what was written"),
        (flip_a_bit, "is not what was written"),
        (Path.unlink, "is missing"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "shards/0.bin", "trainer_state.json"])
def test_any_damage_to_any_file_is_seen(tmp_path, capsys, name, harm, said):
    older, newer = make_checkpoint(tmp_path, 5), make_checkpoint(tmp_path, 20)
    assert last_checkpoint(tmp_path) == (20, newer)
    assert capsys.readouterr().out == ""
    harm(newer / name)
    reason = damage(newer)
    assert reason.startswith(name) and re.search(said, reason)
    assert last_checkpoint(tmp_path) == (5, older)
    assert capsys.readouterr().out == f"Passed over {newer}: {reason}.\n"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"files": {}}', '{"files": {"a": 1}}', '{"files": {"a": {}}}']
)
def test_a_damaged_manifest(tmp_path, content):
    path = make_checkpoint(tmp_path, 5)
    (path / MANIFEST).write_text(content)
    assert MANIFEST in damage(path)
    zero(path / MANIFEST)
    assert damage(path) == f"{MANIFEST} cannot be read"
    (path / MANIFEST).unlink()
    assert damage(path) == f"{MANIFEST} is missing"
    with pytest.raises(
        RunError, match=r"no checkpoint in .* is whole \(checkpoint-5: .*delete them to begin"
    ):
        last_checkpoint(tmp_path)


def test_without_any_checkpoint_there_is_none(tmp_path):
    assert last_checkpoint(tmp_path) is None
    (tmp_path / CHECKPOINTS / checkpoints.UNFINISHED / "checkpoint-9").mkdir(parents=True)
    (tmp_path / CHECKPOINTS / "checkpoint-best").mkdir()
    assert last_checkpoint(tmp_path) is None


def published(folder: Path, step: int) -> list[str]:
    root = folder / CHECKPOINTS
    staged = root / checkpoints.UNFINISHED / f"checkpoint-{step}"
    staged.mkdir(parents=True)
    (staged / "model.safetensors").write_bytes(b"new")
    seal(staged)
    publish(staged, root / staged.name, keep=2)
    assert (root / staged.name / "model.safetensors").read_bytes() == b"new"
    assert list((root / checkpoints.UNFINISHED).iterdir()) == []
    (root / checkpoints.UNFINISHED).rmdir()
    return sorted(path.name for path in root.iterdir())


def test_two_checkpoints_are_kept_and_later_ones_go(tmp_path):
    for step in (5, 10, 40):
        make_checkpoint(tmp_path, step)
    # a run that went on from 10, since 40 is damaged, and is at 15 now
    assert published(tmp_path, 15) == ["checkpoint-10", "checkpoint-15"]
    assert published(tmp_path, 15) == ["checkpoint-10", "checkpoint-15"]  # in the place of one of that step
    assert published(tmp_path, 100) == ["checkpoint-100", "checkpoint-15"]


# --- The folder ------------------------------------------------------------------------------------------------


def test_folders_that_cannot_be_used(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RunError, match="is a file, expected a folder"):
        check_output(file, resume=False, overwrite=False)
    with pytest.raises(RunError, match="is not writable: Not a directory"):
        check_output(file / "out", resume=False, overwrite=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.md").touch()
    for overwrite in (False, True):
        with pytest.raises(RunError, match="is not empty and holds no run of this command"):
            check_output(tmp_path / "mine", resume=False, overwrite=overwrite)
    with pytest.raises(RunError, match=r"--resume: there is no run in .*mine \(no run.json\)"):
        check_output(tmp_path / "mine", resume=True, overwrite=False)
    run = tmp_path / "run"
    check_output(run, resume=False, overwrite=False)
    assert list(run.iterdir()) == []
    (run / ".lock").touch()  # of a run that was killed while it prepared
    (run / ".lock.probe").touch()
    (run / ".run.json").touch()
    (run / ".run.json.123").touch()
    (run / "checkpoints").mkdir()
    check_output(run, resume=False, overwrite=False)
    (run / "run.json").touch()
    check_output(run, resume=True, overwrite=False)
    check_output(run, resume=False, overwrite=True)
    with pytest.raises(RunError, match="already holds a run: continue it with --resume"):
        check_output(run, resume=False, overwrite=False)
    assert (run / "run.json").exists()


def test_what_a_run_wrote_is_deleted_and_nothing_else(tmp_path):
    folder, elsewhere = tmp_path / "out", tmp_path / "big_disk"
    elsewhere.mkdir()
    folder.mkdir()
    (folder / CHECKPOINTS).symlink_to(elsewhere)  # shutil.rmtree refuses links
    make_checkpoint(folder, 3)
    checkpoints.write_run_file(folder, Options().resolve(), corpus_digest="ab")
    checkpoints.add_to_run_file(folder, files=["model.safetensors", "tokenizer.json", "../outside"])
    for name in (
        "model.safetensors",
        "tokenizer.json",
        "metrics.json",
        "losses.png",
        "notes.md",
        "vocab.txt",
    ):
        (folder / name).touch()
    (tmp_path / "outside").touch()
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").touch()
    delete_run(folder)
    assert (tmp_path / "outside").exists()
    assert list(elsewhere.iterdir()) == []
    kept = {path.name for path in folder.iterdir()}
    # run.json goes when that of the next run takes its place: until then the folder is still a run's
    assert kept == {"notes.md", "vocab.txt", "run.json", CHECKPOINTS}


def test_half_a_deleted_run_is_not_resumed(tmp_path, monkeypatch):
    """Killed between the old run and the new one: the old options are not trained anew, and --overwrite goes on."""
    make_checkpoint(tmp_path, 3)
    checkpoints.write_run_file(tmp_path, Options().resolve(), corpus_digest="ab")
    checkpoints.add_to_run_file(tmp_path, files=["model.safetensors"])
    (tmp_path / "model.safetensors").touch()

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints, "empty", killed)
        delete_run(tmp_path)
    with pytest.raises(OptionError, match="--overwrite was deleting the run .* give that command again"):
        load_options(tmp_path / "run.json", {})
    check_output(tmp_path, resume=False, overwrite=True)
    delete_run(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_what_a_killed_process_was_writing_is_deleted(tmp_path):
    checkpoints.write_run_file(tmp_path, Options().resolve())
    for name in (
        ".history.json.4711",
        ".run.json.1",
        ".history.json.mine",
        "history.json.1",
        ".notes.json.2",
    ):
        (tmp_path / name).touch()
    checkpoints.delete_unfinished_files(tmp_path)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"run.json", ".history.json.mine", "history.json.1", ".notes.json.2"}


def test_run_file_is_whole_at_any_time(tmp_path, monkeypatch):
    checkpoints.write_run_file(tmp_path, Options().resolve(), corpus_digest="ab")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    checkpoints.add_to_run_file(tmp_path, finished=7)
    options, facts = load_options(tmp_path / "run.json", {})
    assert facts == {"corpus_digest": "ab", "finished": 7} and options.seed == 0
    before = (tmp_path / "run.json").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.add_to_run_file(tmp_path, finished=8)
    assert (tmp_path / "run.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_finished_is_a_run_whose_results_are_there(tmp_path):
    begun = {"finished": 7, "files": ["model.safetensors"]}
    (tmp_path / "metrics.json").write_text("{}")
    assert checkpoints.finished_steps(tmp_path, begun) is None
    (tmp_path / "model.safetensors").touch()
    assert checkpoints.finished_steps(tmp_path, begun) == 7
    assert checkpoints.finished_steps(tmp_path, {"files": []}) is None
    (tmp_path / "metrics.json").write_text("{")  # damaged: it is made again
    assert checkpoints.finished_steps(tmp_path, begun) is None
