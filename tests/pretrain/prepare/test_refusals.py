# SPDX-License-Identifier: Apache-2.0
"""What spanbert-prepare refuses: errors are named, damage is seen, nothing is deleted before."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("datasets")

from preparations import bytes_of, command

from spanbert_ext.files.disk import DiskError
from spanbert_ext.pretrain.prepare import prepare as prepare_module
from spanbert_ext.pretrain.prepare.prepare import prepare
from spanbert_ext.pretrain.prepare.prepared import load_prepared, stream_prepared
from spanbert_ext.pretrain.prepare.write_shards import write_shards
from spanbert_ext.pretrain.prepare_cli import main
from spanbert_ext.pretrain.rows.tokenizer import load_tokenizer
from spanbert_ext.pretrain.text.corpus import load_documents
from spanbert_ext.pretrain.text.manifest import PreparedError, is_prepared
from spanbert_ext.pretrain.text.phrases import _english_parser
from spanbert_ext.pretrain.text.text_files import CorpusError


def test_overwrite_deletes_nothing_before_all_else_is_checked(options, monkeypatch, tmp_path):
    def missing(kind: str) -> None:
        raise ImportError(f"no textblob for {kind}")

    prepare(options())
    (tmp_path / "out" / "mine.md").write_text("kept")
    before = bytes_of(tmp_path / "out")
    for wrong in (
        {"corpus": [str(tmp_path / "missing.txt")]},
        {"tokenizer": str(tmp_path / "no" / "such" / "folder")},
        {"tokenizer": None, "vocab_size": 100},
        {"document_separator": ""},
        {"workers": -1},
    ):
        with pytest.raises(ValueError):
            prepare(options(overwrite=True, **wrong))
        assert bytes_of(tmp_path / "out") == before
    with monkeypatch.context() as patch, pytest.raises(ImportError, match="no textblob for noun-phrases"):
        patch.setattr(prepare_module, "phrase_finder", missing)
        prepare(options(overwrite=True, phrases="noun-phrases"))
    (tmp_path / "out" / "tokenizer").rename(tmp_path / "tokenizer")
    (tmp_path / "out" / "tokenizer").touch()
    with pytest.raises(
        PreparedError, match="tokenizer is no folder, and a tokenizer goes there: move it away"
    ):
        prepare(options(overwrite=True))
    (tmp_path / "out" / "tokenizer").unlink()
    (tmp_path / "tokenizer").rename(tmp_path / "out" / "tokenizer")
    assert bytes_of(tmp_path / "out") == before
    prepare(options(overwrite=True))
    assert bytes_of(tmp_path / "out") == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"corpus": ["missing.txt"]},
        {"corpus": ["bad.txt"]},
        {"tokenizer": "bert-base-cased"},  # there is no network
        {"tokenizer": "/no/such/folder"},
        {"tokenizer": None, "vocab_size": 100},
        {"documents_per_shard": 0},
    ],
)
def test_what_is_refused_leaves_no_folder(options, monkeypatch, tmp_path, wrong):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.txt").write_bytes(b"fine\n\nna\xefve\n")
    with pytest.raises(ValueError):
        prepare(options("new/out", **wrong))
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError):
        prepare(options("mine", **wrong))
    assert not any((tmp_path / "mine").iterdir())  # and is still there


def test_a_manifest_of_something_else_makes_no_prepared_corpus(options, corpus, tmp_path):
    folder = tmp_path / "text"
    shutil.copytree(*corpus, folder)
    for content in ('{"name": "a collection"}', "[1]", "not JSON"):
        (folder / "manifest.json").write_text(content)
        (folder / "my_progress.jsonl").write_text('{"text": "One more."}\n')
        assert not is_prepared(str(folder))
        with pytest.raises(PreparedError, match="holds no prepared corpus"):
            prepare(options("text", overwrite=True))
        assert len(load_documents([str(folder)], str(tmp_path / "cache"))) == 31
    prepare(options())
    for damaged in ("", '{"format": 2, "shards": []}'):
        (tmp_path / "out" / "manifest.json").write_text(damaged)
        assert is_prepared(str(tmp_path / "out"))
    assert not is_prepared("a" * 5_000) and not is_prepared("a\0b")


def test_what_phrases_lack_is_said_before_anything_is_done(options, monkeypatch, tokenizer_folder, tmp_path):
    _english_parser.cache_clear()
    monkeypatch.setitem(sys.modules, "textblob", None)
    monkeypatch.setitem(sys.modules, "textblob.en", None)
    for workers in (1, 2):
        with pytest.raises(ImportError, match=r"pip install 'spanbert-ext\[phrases\]'"):
            prepare(options(phrases="noun-phrases", workers=workers))
        assert not (tmp_path / "out").exists()
        texts = (("A text.", number) for number in range(1))
        with pytest.raises(ImportError, match="pip install"):
            write_shards(
                lambda place: texts,  # noqa: B023
                tmp_path,
                load_tokenizer(tokenizer_folder),
                {},
                phrases="noun-phrases",
                workers=workers,
            )


def test_folders_of_others_and_empty_corpora(options, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(PreparedError, match="not empty and holds no prepared corpus"):
            prepare(options(overwrite=overwrite))
    with pytest.raises(PreparedError, match="is a file"):
        prepare(options("out/thesis.txt"))
    (tmp_path / "closed" / ".lock").mkdir(parents=True)  # as in a folder that cannot be written
    with pytest.raises(DiskError, match="cannot be written to .*closed: Is a directory"):
        prepare(options("closed"))
    (tmp_path / "empty.txt").write_text(" \n\n")
    with pytest.raises(CorpusError, match=r"corpus is empty.*empty\.txt"):
        prepare(options("other", corpus=[str(tmp_path / "empty.txt")]))
    assert not (tmp_path / "other").exists()
    (tmp_path / "empty.txt").write_text("\u200b")
    with pytest.raises(CorpusError, match="finds no token"):
        prepare(options("other", corpus=[str(tmp_path / "empty.txt")]))


def test_damage_is_seen_when_it_is_loaded(options, tmp_path):
    prepare(options())
    folder = tmp_path / "out"
    shard = folder / "shard-00001.arrow"
    data = shard.read_bytes()
    with pytest.raises(CorpusError, match="prepared by spanbert-prepare: give it alone"):
        load_documents([str(folder), str(folder)], str(tmp_path / "cache"))
    flipped = bytearray(data)
    flipped[len(data) // 3] ^= 1
    for damaged, said in ((data[:-1], "bytes instead of"), (flipped, "has changed"), (None, "is missing")):
        shard.unlink() if damaged is None else shard.write_bytes(damaged)
        with pytest.raises(PreparedError, match=f"shard-00001.arrow.* {said}"):
            load_prepared(folder)
    with pytest.raises(PreparedError, match="shard-00001.arrow is missing"):
        stream_prepared(folder)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(PreparedError, match="format 2, expected 1"):
        load_prepared(folder)
    manifest.write_text("{")
    with pytest.raises(PreparedError, match=r"cannot read .*manifest\.json"):
        load_prepared(folder)
    with pytest.raises(PreparedError, match="holds no prepared corpus"):
        load_prepared(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "more, said",
    [
        (["--documents-per-shard", "0"], "--documents-per-shard is 0, expected an integer of at least 1"),
        (["--corpus", "nowhere.txt"], "'nowhere.txt' does not exist"),
        (["--corpus", ""], "--corpus is empty (an unset variable?)"),
        (["--output", "/proc/prepared"], "/proc/prepared"),
    ],
)
def test_the_command_names_what_is_wrong(options, capsys, more, said):
    assert main(command(options(), *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("spanbert-prepare: error: ") and said in error and "Traceback" not in error


@pytest.mark.parametrize("option", ["--output", "--tokenizer", "--corpus"])
def test_a_name_that_is_too_long_is_said_in_one_line(options, capsys, option):
    assert main(command(options(), option, "x" * 300)) == 2
    error = capsys.readouterr().err
    assert error.startswith("spanbert-prepare: error: ") and error.count("\n") == 1
    assert ("maximum length" if option == "--tokenizer" else "too long") in error and "xxx" in error


@pytest.mark.parametrize("holds", [False, True])
def test_a_folder_of_another_user_is_said_in_one_line(options, monkeypatch, capsys, tmp_path, holds):
    """Permissions say nothing to root, who may run the tests."""
    folder = tmp_path / "out"
    prepare(options()) if holds else folder.mkdir()
    name, exists, iterdir = ("exists", Path.exists, None) if holds else ("iterdir", None, Path.iterdir)

    def refusing(path: Path, **more: bool) -> object:
        if path == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return (exists or iterdir)(path, **more)

    monkeypatch.setattr(Path, name, refusing)
    for more in ((), ("--overwrite",)):
        assert main(command(options(), *more)) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"spanbert-prepare: error: --output {folder} cannot be looked into: ")
        assert "Permission denied" in error and error.count("\n") == 1


def test_what_differs_from_a_finished_preparation_is_named(options, monkeypatch, tmp_path):
    """After an upgrade of a library nothing but the versions does."""
    prepare(options())
    version = importlib.metadata.version
    for upgraded in (["datasets"], ["datasets", "transformers"]):
        with monkeypatch.context() as patch:
            patch.setattr(
                prepare_module.importlib.metadata,
                "version",
                lambda name: "99.0" if name in upgraded else version(name),  # noqa: B023
            )
            said = (
                rf"already holds a prepared corpus that differs in versions \({', '.join(upgraded)}\): delete"
            )
            with pytest.raises(PreparedError, match=said):
                prepare(options())
            with pytest.raises(PreparedError, match=r"differs in documents_per_shard, versions \(datasets"):
                prepare(options(documents_per_shard=5))
    prepare(options())


def test_a_second_preparation_in_one_folder_is_refused(options, tmp_path):
    from spanbert_ext.files.lock import InUse

    (tmp_path / "out").mkdir()
    code = "import sys, pathlib; from spanbert_ext.files.lock import run_lock\n"
    code += "with run_lock(pathlib.Path(sys.argv[1])): print('held', flush=True); input()"
    arguments = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InUse, match="in use"):
            prepare(options())
        holder.communicate("\n")
    prepare(options())
