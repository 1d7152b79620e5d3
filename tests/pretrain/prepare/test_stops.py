# SPDX-License-Identifier: Apache-2.0
"""spanbert-prepare that is stopped, killed or changed on its way: nothing is lost, nothing is mixed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("datasets")

import datasets
from preparations import PER_SHARD, Stop, bytes_of, command, stop_before_the_manifest

from spanbert_ext.pretrain.prepare import prepare as prepare_module
from spanbert_ext.pretrain.prepare.prepare import prepare
from spanbert_ext.pretrain.prepare.prepared import check_tokenizer, load_prepared
from spanbert_ext.pretrain.prepare_cli import main
from spanbert_ext.pretrain.rows import tokenizer as tokenizer_module
from spanbert_ext.pretrain.rows.tokenizer import TokenizerError, load_tokenizer, train_tokenizer
from spanbert_ext.pretrain.text import records
from spanbert_ext.pretrain.text.corpus import load_documents
from spanbert_ext.pretrain.text.manifest import PROGRESS, PreparedError, is_prepared, read_manifest


@pytest.mark.parametrize("after", [0, 5, 17, 30])
def test_what_is_finished_is_kept_and_the_end_is_the_same(options, monkeypatch, tmp_path, after):
    """`after` documents were given to the tokenizer when it is stopped; finished shards are not made again."""
    prepare(options("whole"))
    monkeypatch.setattr("spanbert_ext.pretrain.prepare.write_shards._TOGETHER", 1)
    documents_from, finish = prepare_module._documents_from, prepare_module.finish

    def stopped(sources, options, place):
        for number, document in enumerate(documents_from(sources, options, place)):
            if number == after and after < 30:
                raise Stop
            yield document

    monkeypatch.setattr(prepare_module, "_documents_from", stopped)
    monkeypatch.setattr(prepare_module, "finish", lambda *_: (_ for _ in ()).throw(Stop()))
    with pytest.raises(Stop):  # the last of them: all shards are there, the manifest is not
        prepare(options())
    kept = min(after // PER_SHARD, 4) if after < 30 else 4
    before = {path.name: path.stat().st_ino for path in (tmp_path / "out").glob("shard-*")}
    assert len(before) == kept and not list((tmp_path / "out").glob("*.part"))
    if is_prepared(str(tmp_path / "out")):
        with pytest.raises(PreparedError, match="has not ended"):
            load_prepared(tmp_path / "out")
        with pytest.raises(PreparedError, match="has not ended"):
            load_documents([str(tmp_path / "out")], str(tmp_path / "cache"))
    monkeypatch.setattr(prepare_module, "_documents_from", documents_from)
    monkeypatch.setattr(prepare_module, "finish", finish)
    manifest = prepare(options())
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")
    assert all((tmp_path / "out" / name).stat().st_ino == inode for name, inode in before.items())
    assert manifest == read_manifest(tmp_path / "out")


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "torn line"])
def test_a_finished_shard_that_was_damaged_is_made_again(options, monkeypatch, tmp_path, damage):
    prepare(options("whole"))
    stop_before_the_manifest(monkeypatch, options())
    shard, progress = tmp_path / "out" / "shard-00002.arrow", tmp_path / "out" / PROGRESS
    data = bytearray(shard.read_bytes())
    if damage == "cut":
        shard.write_bytes(data[:-100])
    elif damage == "changed":
        data[len(data) // 2] ^= 4
        shard.write_bytes(data)
    elif damage == "missing":
        shard.unlink()
    else:
        progress.write_text(progress.read_text()[:-200])
        (tmp_path / "out" / "shard-00003.arrow.part").write_text("half of it")
    prepare(options())
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_a_vocabulary_is_trained_once_and_kept_over_a_stop(options, monkeypatch, tmp_path):
    trained = {"tokenizer": None, "vocab_size": 600}
    stop_before_the_manifest(monkeypatch, options(**trained))

    def not_again(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(prepare_module, "train_tokenizer", not_again)
    path = tmp_path / "out" / "tokenizer" / "tokenizer.json"
    whole = path.read_text()
    path.write_text(whole[:300])
    with pytest.raises(
        TokenizerError, match=rf"delete the folder \(rm -r {path.parent}\), and the same one is"
    ):
        prepare(options(**trained))
    path.write_text(whole)
    manifest = prepare(options(**trained))
    assert manifest["tokenizer"]["vocab_size"] == 600 and manifest["counts"]["unknown"] == 0


def test_parts_of_different_preparations_are_not_mixed(options, monkeypatch, corpus, tmp_path):
    stop_before_the_manifest(monkeypatch, options())
    before = bytes_of(tmp_path / "out")
    with pytest.raises(PreparedError, match="differs in documents_per_shard"):
        prepare(options(documents_per_shard=5))
    with pytest.raises(PreparedError, match="differs in phrases"):
        prepare(options(phrases="entities"))
    more = tmp_path / "more.txt"
    more.write_text("One more document.")
    with pytest.raises(PreparedError, match="differs in sources"):
        prepare(options(corpus=[*corpus, str(more)]))
    after = bytes_of(tmp_path / "out")
    assert {name: data for name, data in after.items() if name != ".lock"} == before


def test_what_ended_before_the_lock_was_ours_is_kept(options, monkeypatch, tmp_path):
    @contextlib.contextmanager
    def later(folder):  # the other process ends between the look at the folder and the lock
        monkeypatch.setattr(prepare_module, "run_lock", run_lock)
        prepare(options())
        with run_lock(folder):
            yield

    run_lock = prepare_module.run_lock
    for given in ({}, {"documents_per_shard": 5}):
        stop_before_the_manifest(monkeypatch, options(overwrite=(tmp_path / "out").exists()))
        monkeypatch.setattr(prepare_module, "run_lock", later)
        if given:
            with pytest.raises(PreparedError, match="already holds a prepared corpus"):
                prepare(options(**given))
        else:
            prepare(options())
        assert len(read_manifest(tmp_path / "out")["shards"]) == 4


class _StoppedRows:
    """A dataset while which is read a signal arrives: after some rows, or as it is opened."""

    column_names = ("text",)

    def __init__(self, after: int, number: int) -> None:
        self._after, self._number = after, number

    def select_columns(self, names: list[str]) -> _StoppedRows:
        return self

    def __iter__(self) -> Iterator[dict[str, str]]:
        for number in range(100):
            if number == self._after:
                os.kill(os.getpid(), self._number)
            yield {"text": f"Document number {number}."}


@pytest.mark.parametrize(
    ("after", "number"),
    [(0, signal.SIGTERM), (50, signal.SIGTERM), (50, signal.SIGHUP), (50, signal.SIGINT)],
)
def test_a_signal_while_a_dataset_is_read_is_no_error_of_it(
    options, monkeypatch, capsys, tmp_path, after, number
):
    monkeypatch.setattr(records, "_open_dataset", lambda name: _StoppedRows(after, number))
    monkeypatch.setattr(prepare_module, "source_state", lambda source: (source, "state"))
    before = signal.getsignal(number)
    assert main(command(options(corpus=["dataset:x"]))) == 128 + number
    said = capsys.readouterr().err
    assert "Stopped. The shards that are finished are kept" in said and "error" not in said
    assert signal.getsignal(number) is before
    assert (tmp_path / "out").exists() == (after > 0)  # its first row was there


@pytest.mark.parametrize("opened", ["load_dataset", "from_pretrained"])
def test_a_signal_while_something_is_opened_is_no_error_of_it(
    options, corpus, monkeypatch, capsys, tmp_path, opened
):
    """Many types of error are a user's where a dataset or a tokenizer is opened; this is none of them."""

    def killed(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    owner = datasets if opened == "load_dataset" else tokenizer_module.AutoTokenizer
    monkeypatch.setattr(owner, opened, killed)
    given = ["dataset:x"] if opened == "load_dataset" else corpus
    assert main(command(options(corpus=given))) == 128 + signal.SIGTERM
    said = capsys.readouterr().err
    assert "Stopped. The shards that are finished are kept" in said and "error" not in said


def test_an_unfinished_preparation_inside_its_own_corpus_goes_on(options, corpus, monkeypatch, tmp_path):
    inside = tmp_path / "text"
    shutil.copytree(*corpus, inside)
    given = {"corpus": [str(inside)], "output": str(inside / "prepared")}
    stop_before_the_manifest(monkeypatch, options(**given))
    assert prepare(options(**given))["counts"]["documents"] == 29


def test_a_tokenizer_that_changed_under_its_name(options, monkeypatch, texts, tokenizer_folder, tmp_path):
    named = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_folder, named)
    stop_before_the_manifest(monkeypatch, options(tokenizer=str(named)))
    train_tokenizer(lambda: texts, 500).save_pretrained(named)
    with pytest.raises(PreparedError, match="began with another tokenizer"):
        prepare(options(tokenizer=str(named)))
    prepare(options(tokenizer=str(named), overwrite=True))
    check_tokenizer(tmp_path / "out", load_tokenizer(str(named)))
    with pytest.raises(PreparedError, match="prepared with another tokenizer.*--tokenizer"):
        check_tokenizer(tmp_path / "out", load_tokenizer(tokenizer_folder))


def children(process: int) -> list[int]:
    return [int(name) for name in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux' /proc")
def test_killed_at_any_moment_it_ends_with_the_same_bytes(options, corpus, tmp_path):
    """SIGKILL with two workers, at random moments, then SIGTERM; no worker is left behind."""
    prepare(options("whole", documents_per_shard=1))
    words = command(options(), "--workers", "2", "--documents-per-shard", "1")
    code = "import sys, time\nfrom spanbert_ext.pretrain.prepare import write_shards\n"
    code += "tokenize = write_shards._Tokenizing.__call__\n"
    code += "def slow(self, texts):\n    time.sleep(0.2)\n    return tokenize(self, texts)\n"
    code += "write_shards._Tokenizing.__call__ = slow\n"
    code += "from spanbert_ext.pretrain.prepare_cli import main\nsys.exit(main(sys.argv[1:]))"
    shards = tmp_path / "out"
    chance, signals = random.Random(5), [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]
    for number in signals:
        before = len(list(shards.glob("shard-*.arrow"))) if shards.exists() else 0
        process = subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while len(list(shards.glob("shard-*.arrow"))) < before + 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.3))
        workers = children(process.pid)
        assert len(workers) >= 2
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
        if number == signal.SIGTERM:
            assert process.returncode == 128 + number and "it goes on" in error
        while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    kept = len(list(shards.glob("shard-*.arrow")))
    assert 6 <= kept < 30
    assert main(command(options(), "--documents-per-shard", "1")) == 0
    whole, made = bytes_of(tmp_path / "whole"), bytes_of(shards)
    assert made.keys() == whole.keys() and made == whole
    assert os.path.getsize(shards / "lengths.png")
