"""What goes wrong with a corpus and its cache is said by name, with the remedy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("datasets")

from datasets import Dataset
from tiny_models import tiny_tokenizer

from spanbert_ext.pretrain.rows.held_out import split_documents
from spanbert_ext.pretrain.rows.token_documents import tokenize_documents
from spanbert_ext.pretrain.text.corpus import find_files, load_documents
from spanbert_ext.pretrain.text.corpus_names import DATASET, absolute_names
from spanbert_ext.pretrain.text.text_files import CorpusError


@pytest.fixture
def corpus(tmp_path) -> list[str]:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"Document {number} has a sentence." for number in range(50)))
    return [str(path)]


def test_a_pipe_and_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(CorpusError, match=r"pipe\.txt.* is a pipe.*several times: write it to a file"):
        find_files([str(tmp_path / "pipe.txt")])
    reading, writing = os.pipe()
    try:
        with pytest.raises(CorpusError, match=f"/dev/fd/{reading}.* is a pipe"):  # <(zcat x)
            find_files([f"/dev/fd/{reading}"])
    finally:
        os.close(reading)
        os.close(writing)
    with pytest.raises(CorpusError, match="/dev/null.* is a device"):
        find_files(["/dev/null"])


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name(name):
    with pytest.raises(CorpusError, match="--corpus has an empty name"):
        find_files([name])


@pytest.mark.parametrize(
    "name, said",
    [
        ("a" * 5_000, "cannot be looked for: .*too long"),
        ("~no-such-user/text.txt", "'~no-such-user/text.txt' does not exist"),
        ("a\0b.txt", "does not exist"),
    ],
)
def test_a_name_that_no_file_can_have(name, said):
    with pytest.raises(CorpusError, match=said):
        load_documents([name])
    assert absolute_names([name, f"{DATASET}{name}"])


def test_a_pattern_that_is_none(tmp_path):
    try:
        found = find_files([f"{tmp_path}/**.txt"])
    except CorpusError as error:  # up to Python 3.12
        assert f"{tmp_path}/**.txt" in str(error) and "path component" in str(error)
    else:
        assert not found


def test_a_file_name_that_is_not_unicode(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.txt")).write_text("Some text.")
    except OSError:
        pytest.skip("this file system takes Unicode names alone")
    documents = load_documents([str(folder)], str(tmp_path / "cache"))
    assert documents["text"][:] == ["Some text."] and documents["source"][0].endswith("caf\\xe9.txt")
    name = os.fsdecode(b"nowhere-\xe9.txt")
    with pytest.raises(CorpusError) as error:
        find_files([name])
    str(error.value).encode()  # can be printed


@pytest.mark.parametrize("separator", ["", " \n"])
def test_a_separator_that_is_no_line(corpus, separator, tmp_path):
    with pytest.raises(CorpusError, match="--document-separator"):
        load_documents(corpus, str(tmp_path / "cache"), separator=separator)


def test_the_cache_knows_separator_and_field(tmp_path):
    (tmp_path / "a.txt").write_text("a\n\nb\n---\nc")
    (tmp_path / "a.jsonl").write_text('{"text": "t", "other": "o"}')
    corpus, cache = [str(tmp_path)], str(tmp_path / "cache")
    assert load_documents(corpus, cache)["text"][:] == ["t", "a", "b\n---\nc"]
    assert load_documents(corpus, cache, separator="---")["text"][:] == ["t", "a\nb", "c"]
    assert load_documents(corpus, cache, text_field="other")["text"][0] == "o"
    assert load_documents(corpus, cache)["text"][0] == "t"


def cut_in_half(data: bytearray) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytearray) -> bytes:
    data[len(data) // 2] ^= 1
    return data


@pytest.mark.parametrize("damage", [cut_in_half, flipped, lambda data: bytes(len(data)), lambda data: b""])
def test_a_damaged_table_is_named_with_the_remedy(tmp_path, corpus, damage):
    cache = tmp_path / "cache"
    load_documents(corpus, str(cache))
    (table,) = cache.rglob("*.arrow")
    table.write_bytes(damage(bytearray(table.read_bytes())))
    with pytest.raises(CorpusError, match="is damaged") as error:
        load_documents(corpus, str(cache))
    assert str(table) in str(error.value)
    folder = str(error.value).split("rm -r ")[1]
    assert table.is_relative_to(folder) and Path(folder) != cache
    for path in sorted(Path(folder).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert len(load_documents(corpus, str(cache))) == 50


@pytest.mark.parametrize(
    "damage, workers", [(cut_in_half, 0), (flipped, 0), (flipped, 2), (lambda data: b"", 0)]
)
def test_damage_in_the_tables_of_tokens_and_passages_is_named(tmp_path, corpus, damage, workers):
    cache, tokenizer = tmp_path / "cache", tiny_tokenizer()
    one = tmp_path / "one.txt"
    one.write_text(Path(*corpus).read_text().replace("\n\n", "\n"))  # a document, so divided into passages

    def tables() -> Iterator[Dataset]:
        split = split_documents(load_documents([str(one)], str(cache)), 0.2)
        yield from (split.train, tokenize_documents(split.train, tokenizer, workers))

    paths = [Path(table.cache_files[-1]["filename"]) for table in tables()]
    for path, other in zip(paths, reversed(paths), strict=True):
        assert path != other
        path.write_bytes(damage(bytearray(path.read_bytes())))
        with pytest.raises(CorpusError, match="is damaged") as error:
            list(tables())
        assert str(path) in str(error.value)
        shutil.rmtree(str(error.value).split("rm -r ")[1])
        list(tables())


def test_a_cache_that_cannot_be_used(tmp_path, corpus, monkeypatch):
    (tmp_path / "file").write_text("")
    for name in (tmp_path / "file", tmp_path / "file" / "under", Path("/proc/cache")):
        with pytest.raises(CorpusError, match=f"{name}.*--cache-dir"):
            load_documents(corpus, str(name))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spanbert_ext.pretrain.text.corpus.Dataset.from_generator", full)
    with pytest.raises(CorpusError, match="cache cannot be used in .*No space left on device.*--cache-dir"):
        load_documents(corpus, str(tmp_path / "cache"))
