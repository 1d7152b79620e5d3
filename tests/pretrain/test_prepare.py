"""spanbert-prepare: the same shards whatever made them, nothing lost when it is stopped, damage seen, errors named."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("datasets")

from datasets import load_dataset
from datasets.distributed import split_dataset_by_node

from spanbert_ext.files.disk import DiskError
from spanbert_ext.pretrain.prepare import prepare as prepare_module
from spanbert_ext.pretrain.prepare import shards as shards_module
from spanbert_ext.pretrain.prepare.prepare import PrepareOptions, prepare
from spanbert_ext.pretrain.prepare.prepared import check_tokenizer, load_prepared, stream_prepared
from spanbert_ext.pretrain.prepare.write_shards import write_shards
from spanbert_ext.pretrain.prepare_cli import main
from spanbert_ext.pretrain.rows.tokenizer import TokenizerError, load_tokenizer, train_tokenizer
from spanbert_ext.pretrain.text.builtin_corpus import builtin_documents
from spanbert_ext.pretrain.text.corpus import digest, load_documents
from spanbert_ext.pretrain.text.manifest import PROGRESS, PreparedError, is_prepared, read_manifest
from spanbert_ext.pretrain.text.phrases import _english_parser
from spanbert_ext.pretrain.text.sentences import split_sentences
from spanbert_ext.pretrain.text.text_files import CorpusError

PER_SHARD = 8


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Of very different lengths, in an order of no meaning."""
    found = [text for _, text in itertools.islice(builtin_documents(), 24)]
    found = [*found, *(text.split("\n")[0] for text in found[:5]), "\u200b"]  # the last: no token
    random.Random(1).shuffle(found)
    return found


@pytest.fixture(scope="module")
def tokenizer_folder(texts, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(lambda: texts, 700).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def corpus(texts, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.txt").write_text("\n\n".join(texts[:13]), encoding="utf-8")
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[13:]))
    return [str(folder)]


@pytest.fixture(autouse=True)
def no_picture(request, monkeypatch):
    """Which takes most of the time of a preparation as small as these."""
    if "draws" not in request.fixturenames:
        monkeypatch.setattr(prepare_module, "draw_lengths", lambda path, *lengths: path.write_bytes(b"PNG"))


@pytest.fixture
def draws() -> None:
    """For a test that looks at the picture."""


@pytest.fixture
def options(corpus, tokenizer_folder, tmp_path):
    def options(name: str = "out", **given) -> PrepareOptions:
        rest = {
            "documents_per_shard": PER_SHARD,
            "workers": 1,
            "progress": False,
            "tokenizer": tokenizer_folder,
        }
        return PrepareOptions(**{"corpus": corpus, "output": str(tmp_path / name), **rest, **given})

    return options


def bytes_of(folder: Path | str) -> dict[str, bytes]:
    """All but the picture and the lock."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.suffix != ".png"}


def test_tokens_are_those_of_the_documents_and_the_manifest_counts_them(options, texts, tmp_path):
    manifest = prepare(options(phrases="entities"))
    tokenizer = load_tokenizer(str(tmp_path / "out" / "tokenizer"))
    documents = load_prepared(tmp_path / "out")
    with_tokens = [text for text in texts if text != "\u200b"]
    assert documents["digest"][:] == [digest(text) for text in with_tokens]
    spans = []
    for row, text in zip(documents, with_tokens, strict=True):
        sentences = tokenizer(split_sentences(text), add_special_tokens=False)["input_ids"]
        assert row["sentence_lengths"] == [len(ids) for ids in sentences]
        assert row["tokens"] == list(itertools.chain.from_iterable(sentences))
        pairs = list(zip(row["candidates"][::2], row["candidates"][1::2], strict=True))
        assert all(0 <= start < end <= len(row["tokens"]) for start, end in pairs)
        spans += [tokenizer.decode(row["tokens"][start:end]) for start, end in pairs]
    assert "Python" in " ".join(spans) and len(spans) > 50
    counts = manifest["counts"]
    assert counts["documents"] == len(with_tokens)
    assert counts["tokens"] == sum(map(len, documents["tokens"]))
    assert counts["sentences"] == sum(map(len, documents["sentence_lengths"]))
    assert counts["candidates"] == len(spans)
    assert counts["text_bytes"] == sum(len(text.encode()) for text in texts)
    assert [shard["documents"] for shard in manifest["shards"]].count(PER_SHARD) >= 2
    for shard in manifest["shards"]:
        data = (tmp_path / "out" / shard["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard["bytes"], shard["sha256"])


def test_the_same_bytes_for_any_number_of_processes_and_size_of_task(options, monkeypatch, tmp_path):
    manifest = prepare(options("one"))
    assert len(manifest["shards"]) == 4
    prepare(options("two", workers=2))
    monkeypatch.setattr("spanbert_ext.pretrain.prepare.write_shards._TOGETHER", 3_000)
    prepare(options("small", workers=1))
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two") == bytes_of(tmp_path / "small")
    assert not list(tmp_path.rglob("progress*"))


def test_record_batches_do_not_follow_the_tasks(options, monkeypatch, tmp_path):
    monkeypatch.setattr(shards_module, "_BATCH_TOKENS", 500)
    prepare(options("one"))
    monkeypatch.setattr("spanbert_ext.pretrain.prepare.write_shards._TOGETHER", 1)
    prepare(options("small"))
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "small")
    assert len(load_prepared(tmp_path / "one").data.column("tokens").chunks) > 8


class Stop(Exception):
    pass


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


def stop_before_the_manifest(monkeypatch, options: PrepareOptions) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "finish", lambda *_: (_ for _ in ()).throw(Stop()))
        with pytest.raises(Stop):
            prepare(options)


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


def test_a_finished_preparation_is_left_alone(options, tmp_path):
    manifest = prepare(options())
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert prepare(options(workers=2)) == manifest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times
    with pytest.raises(PreparedError, match="already holds a prepared corpus"):
        prepare(options(documents_per_shard=5))
    assert len(prepare(options(documents_per_shard=5, overwrite=True))["shards"]) == 6
    assert len(list((tmp_path / "out").glob("shard-*"))) == 6


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


def test_an_unfinished_preparation_inside_its_own_corpus_goes_on(options, corpus, monkeypatch, tmp_path):
    inside = tmp_path / "text"
    shutil.copytree(*corpus, inside)
    given = {"corpus": [str(inside)], "output": str(inside / "prepared")}
    stop_before_the_manifest(monkeypatch, options(**given))
    assert prepare(options(**given))["counts"]["documents"] == 29


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


def test_shards_are_memory_mapped_and_their_name_is_their_content(options, tmp_path):
    prepare(options())
    documents = load_prepared(tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    assert load_prepared(tmp_path / "copy")._fingerprint == documents._fingerprint
    assert len(documents.cache_files) == 4
    tokens = documents.data.column("tokens")
    assert all(chunk.values.to_numpy(zero_copy_only=True).dtype == np.int32 for chunk in tokens.chunks)


def test_streams_are_divided_by_shards(options, tmp_path):
    prepare(options())
    whole = load_prepared(tmp_path / "out")
    stream = stream_prepared(tmp_path / "out")
    assert stream.n_shards == 4 and list(stream) == list(whole)
    parts = [list(split_dataset_by_node(stream, rank, 2)) for rank in (0, 1)]
    assert sorted(row["digest"] for part in parts for row in part) == sorted(whole["digest"])
    assert all(12 < len(part) < 17 for part in parts)
    by_name = load_dataset(
        "arrow", data_files=str(tmp_path / "out" / "*.arrow"), split="train", streaming=True
    )
    assert list(by_name) == list(whole)


def command(options: PrepareOptions, *more: str) -> list[str]:
    words = ["--corpus", *options.corpus, "--output", options.output, "--tokenizer", options.tokenizer]
    return [*words, "--documents-per-shard", str(PER_SHARD), "--workers", "1", "--no-progress", *more]


@pytest.mark.usefixtures("draws")
def test_the_command_says_what_it_made(options, tmp_path, capsys):
    assert main(command(options(), "--phrases", "entities")) == 0
    said = capsys.readouterr().out
    assert "documents   29, of" in said and "unknown     " in said and "phrases" in said
    assert f"spanbert-pretrain --corpus {tmp_path / 'out'}" in said
    assert (tmp_path / "out" / "report.md").read_text() in said
    assert (tmp_path / "out" / "lengths.png").read_bytes().startswith(b"\x89PNG")


def test_short_documents_are_said_to_be_short(options, tmp_path, capsys):
    (tmp_path / "short.txt").write_text("\n\n".join(["A paragraph."] * 30))
    assert main(command(options(corpus=[str(tmp_path / "short.txt")]))) == 0
    assert "--document-separator" in capsys.readouterr().out


@pytest.mark.parametrize(
    "more, said",
    [
        (["--documents-per-shard", "0"], "--documents-per-shard is 0, expected an integer of at least 1"),
        (["--corpus", "nowhere.txt"], "'nowhere.txt' does not exist"),
        (["--corpus", ""], "--corpus has an empty name"),
        (["--output", "/proc/prepared"], "/proc/prepared"),
    ],
)
def test_the_command_names_what_is_wrong(options, capsys, more, said):
    assert main(command(options(), *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("spanbert-prepare: error: ") and said in error and "Traceback" not in error


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
