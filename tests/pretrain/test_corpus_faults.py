# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with a corpus and its cache is said by name, with the remedy."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("datasets")

from datasets import Dataset
from tiny_models import tiny_tokenizer

from spanbert_ext.pretrain.rows.held_out import split_documents
from spanbert_ext.pretrain.rows.token_documents import tokenize_documents
from spanbert_ext.pretrain.text.corpus import find_files, load_documents, passed_over
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


@pytest.fixture
def closed(monkeypatch):
    """Makes paths unreadable, for root too, to whom permissions say nothing."""
    scandir, access, closed = os.scandir, os.access, set()

    def refusing(path="."):
        if os.fspath(path) in closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    monkeypatch.setattr(
        os, "access", lambda path, mode, **more: os.fspath(path) not in closed and access(path, mode, **more)
    )
    yield lambda path: (path.chmod(0), closed.add(str(path)))
    for path in closed:
        Path(path).chmod(0o700)


@pytest.mark.parametrize("pattern", ["", "**/*.txt", "*/*.txt", "*/deeper/*.txt", "in*/*/*.txt", "**/*"])
def test_a_folder_that_cannot_be_entered_is_refused(tmp_path, closed, pattern):
    folder = tmp_path / "inside" / "deeper"
    folder.mkdir(parents=True)
    (tmp_path / "inside" / "a.txt").write_text("One.")
    (folder / "b.txt").write_text("Two.")
    name = str(tmp_path / pattern)
    assert find_files([name])
    closed(folder if pattern != "*/*.txt" else folder.parent)
    with pytest.raises(CorpusError, match="inside.* cannot be (searched|looked for): .*ermission denied"):
        find_files([name])
    other = tmp_path / "other"
    other.mkdir()
    (other / "c.txt").write_text("Three.")
    assert find_files([f"{tmp_path}/o*/*.txt"]) == [other / "c.txt"]  # it does not lead there


def test_the_folder_that_a_disk_keeps_for_itself_is_passed_over(tmp_path, closed):
    (tmp_path / "a.txt").write_text("One.")
    for name in ("lost+found", "inside"):
        (tmp_path / name).mkdir()
    closed(tmp_path / "lost+found")
    assert find_files([str(tmp_path)]) == [tmp_path / "a.txt"]
    closed(tmp_path / "inside")
    with pytest.raises(CorpusError, match="inside cannot be searched"):
        find_files([str(tmp_path)])


@pytest.mark.parametrize("name", ["text.txt", "", "*.txt"])
def test_a_file_that_cannot_be_read_is_refused_before_any_is(tmp_path, closed, name):
    for file in ("a.txt", "text.txt"):
        (tmp_path / file).write_text("One.")
    closed(tmp_path / "text.txt")
    with pytest.raises(CorpusError, match=r"text\.txt cannot be read by you: change its permissions"):
        find_files([str(tmp_path / name)])
    assert find_files([str(tmp_path / "a.txt")])


def special_files(folder: Path) -> dict[str, str]:
    """A file and what is none, by name."""
    (folder / "a.txt").write_text("One.")
    os.mkfifo(folder / "pipe.txt")
    (folder / "dead.jsonl").symlink_to("nowhere.jsonl")
    (folder / "circle.txt").symlink_to("round.txt")
    (folder / "round.txt").symlink_to("circle.txt")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket is short
        try:
            server.bind("socket.txt")
        finally:
            os.chdir(here)
    circle = "is a link that leads in a circle"
    return {
        **{"circle.txt": circle, "round.txt": circle, "dead.jsonl": "is a link that leads nowhere"},
        **{"pipe.txt": "is a pipe", "socket.txt": "is a socket"},
    }


def test_what_is_no_file_is_named(tmp_path):
    others = special_files(tmp_path)
    (tmp_path / "folder.txt").mkdir()
    assert find_files([str(tmp_path)]) == find_files([f"{tmp_path}/*"]) == [tmp_path / "a.txt"]
    (said,) = passed_over([str(tmp_path)])
    assert said == (
        f"Passed over in {tmp_path}: circle.txt is a link that leads in a circle, dead.jsonl is a link that leads"
        " nowhere, pipe.txt is a pipe, ...."
    )
    for name, what in others.items():
        (said,) = passed_over([f"{tmp_path}/{name[:3]}*"])
        assert said == f"Passed over in {tmp_path}/{name[:3]}*: {tmp_path / name} {what}."
        with pytest.raises(CorpusError, match=f"{name}' {what}"):
            find_files([str(tmp_path / name)])
    (tmp_path / "a.txt").unlink()
    with pytest.raises(CorpusError, match=r"holds no file that ends in .*, but circle\.txt is a link"):
        find_files([str(tmp_path)])


def test_links_to_folders_are_not_entered_which_is_said(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("One.")
    (tmp_path / "text" / "up").symlink_to(tmp_path)  # a circle, were it entered
    (tmp_path / "text" / "b.txt").symlink_to("a.txt")
    assert find_files([str(tmp_path / "text")]) == [tmp_path / "text" / "a.txt"]  # once
    assert passed_over([str(tmp_path / "text")]) == [
        f"Passed over in {tmp_path}/text: 1 link to folders (up), which are read where they are named."
    ]
    (tmp_path / "link").symlink_to("text")
    assert find_files([str(tmp_path / "link")]) == [tmp_path / "link" / "a.txt"]


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name(name):
    with pytest.raises(CorpusError, match="--corpus is empty"):
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
