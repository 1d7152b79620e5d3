# SPDX-License-Identifier: Apache-2.0
"""Where a conversion may write, and what is there whatever ends it."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
import torch
from published_samples import VOCABULARY, published_state, save
from tiny_models import make_model, one_thread  # noqa: F401

from spanbert_ext.convert import checkpoint_file, convert_cli, whole_folder
from spanbert_ext.convert import convert as conversion


def command(*arguments) -> int:
    return convert_cli.main([*map(str, arguments), "--no-progress"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return save(published_state(15), tmp_path / "model.pt")


def beside(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- What is read stays there ------------------------------------------------------------------------------------


def test_an_output_that_holds_the_vocabulary_is_refused(tmp_path, checkpoint, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "vocab.txt").write_text("\n".join(VOCABULARY))
    for vocabulary in (out / "vocab.txt", out):
        assert command(checkpoint, "--output", out, "--vocab", vocabulary, "--overwrite") == 2
        assert f"holds what is to be read, {vocabulary}" in capsys.readouterr().err
    assert beside(out) == {"vocab.txt"}


def test_an_output_that_a_file_of_the_source_is_a_link_into_is_refused(tmp_path, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    make_model().save_pretrained(source)
    out.mkdir()
    os.rename(source / "model.safetensors", out / "model.safetensors")
    (source / "model.safetensors").symlink_to(out / "model.safetensors")
    assert command(source, "--output", out, "--overwrite") == 2
    assert f"holds what is to be read, {source / 'model.safetensors'}" in capsys.readouterr().err
    assert (source / "model.safetensors").exists()


def test_an_output_in_the_source_leaves_it(tmp_path):
    source = tmp_path / "in"
    make_model().save_pretrained(source)
    before = contents(source)
    for overwrite in ([], ["--overwrite"]):
        assert command(source, "--output", source / "out", *overwrite) == 0
    assert before.items() < contents(source).items()


# --- What came meanwhile stays there -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "overwrite"), [("notes.md", True), ("config.json", False)])
def test_what_comes_into_the_output_meanwhile_is_not_deleted(
    tmp_path, checkpoint, capsys, monkeypatch, name, overwrite
):
    out, write = tmp_path / "out", conversion.write_fairseq

    def writing(*arguments) -> None:
        write(*arguments)
        out.mkdir()
        (out / name).write_text("mine")

    monkeypatch.setattr(conversion, "write_fairseq", writing)
    given = ["--to", "fairseq", *(["--overwrite"] if overwrite else [])]
    assert command(checkpoint, "--output", out, *given) == 2
    assert f"--output {out}" in capsys.readouterr().err
    assert contents(out) == {name: b"mine"} and beside(tmp_path) == {"model.pt", "out"}


# --- What ends a conversion --------------------------------------------------------------------------------------


def test_a_signal_while_a_file_is_read_is_no_damage_of_it(tmp_path, checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(checkpoint_file, "_load", lambda *arguments: signal.raise_signal(signal.SIGTERM))
    assert command(checkpoint, "--output", tmp_path / "out") == 128 + signal.SIGTERM
    assert "damaged" not in capsys.readouterr().err


def test_a_terminal_that_is_closed_ends_it_cleanly_unless_that_is_ignored(tmp_path, checkpoint, monkeypatch):
    write = conversion.write_fairseq

    def writing(*arguments) -> None:
        write(*arguments)
        signal.raise_signal(signal.SIGHUP)

    monkeypatch.setattr(conversion, "write_fairseq", writing)
    arguments = (checkpoint, "--to", "fairseq", "--output", tmp_path / "out")
    assert command(*arguments) == 128 + signal.SIGHUP
    assert beside(tmp_path) == {"model.pt"}
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        assert command(*arguments) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_between_two_renames_loses_nothing(tmp_path, checkpoint, renames):
    """After any of them the next conversion finds the old output or the new one in its place."""
    out = tmp_path / "out"
    assert command(checkpoint, "--output", out) == 0
    before = contents(out)
    child = os.fork()
    if child == 0:  # killed after so many renames
        try:
            torch.set_num_threads(1)
            with whole_folder.whole_folder(out, True) as folder:
                (folder / "model.pt").write_bytes(b"new")
                done, rename = [], os.rename

                def renaming(*arguments) -> None:
                    if len(done) == renames:
                        os.kill(os.getpid(), signal.SIGKILL)
                    rename(*arguments)
                    done.append(arguments)

                whole_folder.os.rename = renaming
                whole_folder.shutil.rmtree = lambda *arguments, **options: os.kill(
                    os.getpid(), signal.SIGKILL
                )
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    whole_folder._settle_leftovers(out)
    assert contents(out) == (before if renames < 2 else {"model.pt": b"new"})
    assert beside(tmp_path) == {"model.pt", "out"}


def test_a_process_of_the_same_number_left_something(tmp_path, checkpoint):
    """As in containers, where every first process has the number 1."""
    for kind in ("unfinished", "replaced"):
        (tmp_path / f".out.{os.getpid()}.{kind}").mkdir()
        (tmp_path / f".out.{os.getpid()}.{kind}" / "model.pt").write_bytes(b"half")
    (tmp_path / "out").mkdir()
    assert command(checkpoint, "--output", tmp_path / "out") == 0
    assert beside(tmp_path) == {"model.pt", "out"}


def test_what_cannot_be_put_back_is_not_deleted(tmp_path, checkpoint, capsys, monkeypatch):
    out, rename = tmp_path / "out", os.rename
    assert command(checkpoint, "--output", out) == 0
    before = contents(out)

    def failing(source, target) -> None:
        if Path(target).name == "out":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(whole_folder.os, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        command(checkpoint, "--output", out, "--overwrite")
    (kept,) = tmp_path.glob(".out.*.replaced")
    assert contents(kept) == before


# --- Names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("place", "name"), [(0, "SOURCE"), (2, "--output"), (4, "--vocab")])
def test_an_empty_name_is_no_folder(tmp_path, checkpoint, capsys, monkeypatch, place, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    arguments = [checkpoint, "--output", tmp_path / "out", "--vocab", "vocab.txt"]
    arguments[place] = ""
    assert command(*arguments) == 2
    assert f"{name} is empty (an unset variable?)" in capsys.readouterr().err


def test_what_cannot_be_replaced_is_refused_at_once(tmp_path, checkpoint, capsys, monkeypatch):
    (tmp_path / "here" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert command(checkpoint, "--output", ".") == 2
    assert "is the working directory" in capsys.readouterr().err
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr(whole_folder.os.path, "ismount", lambda path: Path(path).name == "mounted")
    assert command(checkpoint, "--output", tmp_path / "mounted") == 2
    assert "is a mount point" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x" * 300, "~no-such-user/model"])
def test_names_that_no_file_has(tmp_path, checkpoint, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert command(name, "--output", "out") == 2
    assert command(checkpoint, "--output", "out", "--vocab", name) == 2
    assert capsys.readouterr().err.count("spanbert-convert: error: ") == 2


# --- Case --------------------------------------------------------------------------------------------------------


def test_a_few_words_with_capitals_make_no_cased_vocabulary(tmp_path):
    from spanbert_ext.convert.vocabulary import load_vocabulary

    lower = [*dict.fromkeys(x if x.startswith("[") else x.lower() for x in VOCABULARY)]
    lower += [f"word{i}" for i in range(30)]
    (tmp_path / "vocab.txt").write_text("\n".join([*lower, "COVID"]))
    assert load_vocabulary(tmp_path / "vocab.txt", 24).tokenize("Paris") == ["paris"]
