# SPDX-License-Identifier: Apache-2.0
"""Files of data sets, packed or not, and folds."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections import Counter
from pathlib import Path

import pytest

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.folds import group_folds
from spanbert_ext.evaluate.data.sources import (
    files_below,
    find_file,
    find_files,
    parse_json,
    read_json,
    read_lines,
    read_text,
)

TEXT = "Grüße\u2028\x85\x0b and\n more \n"


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_text_is_read_whatever_packs_it_and_ends_its_lines(tmp_path: Path, pack) -> None:
    path = tmp_path / "name says nothing"
    path.write_bytes(pack(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()))
    assert read_text(path) == TEXT
    assert read_lines(path) == ["Grüße\u2028\x85\x0b and", " more "]


def test_empty_lines_at_the_end_are_no_lines(tmp_path: Path) -> None:
    for content, lines in ((b"", []), (b"\n\n", []), (b"one\n\ntwo\r\n\r\n\n", ["one", "", "two"])):
        (tmp_path / "f").write_bytes(content)
        assert read_lines(tmp_path / "f") == lines


def test_a_carriage_return_inside_a_line_is_text(tmp_path: Path) -> None:
    (tmp_path / "unix").write_bytes(b"one\rhalf\ntwo\n")
    (tmp_path / "old mac").write_bytes(b"one\rtwo\r")
    assert read_lines(tmp_path / "unix") == ["one\rhalf", "two"]
    assert read_lines(tmp_path / "old mac") == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\ntwo\n\xe9\n", r"f:3: is not UTF-8 \(byte 0xe9\)"),
        (b"\xef\xbb\xbfone\ntwo\n\xe9\n", r"f:3: is not UTF-8 \(byte 0xe9\)"),
        (lzma.compress(b"some text")[:-9], "f: cannot be unpacked"),
        (gzip.compress(b"some text" * 99)[:-20], "f: cannot be unpacked"),
        (bz2.compress(b"some text"), "f: is packed by bzip2; unpack it, or pack it by xz or gzip"),
        (b"PK\x03\x04\x14\0", "f: is packed by zip"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_text(tmp_path / "f")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "f: is JSON that nests too deeply"),
        (f"[{'9' * 5000}]", "f: is JSON that cannot be read: .*digits"),
        ("[\n1,\n]", "f:3: is not JSON"),
    ],
)
def test_json_that_cannot_be_read_is_an_error_of_the_file(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "f").write_text(content)
    with pytest.raises(DataError, match=message):
        read_json(tmp_path / "f")
    with pytest.raises(DataError, match="f:7: is "):
        parse_json(content, tmp_path / "f", 7)


def test_every_stream_of_a_packed_file_is_read_or_it_is_damaged(tmp_path: Path) -> None:
    first, second = lzma.compress(b"one\n"), lzma.compress(b"two\n")
    path = tmp_path / "f"
    for whole in (first + second, first + bytes(8) + second + bytes(4), gzip.compress(b"one\n") * 2):
        path.write_bytes(whole)
        assert len(read_lines(path)) == 2
    for place in range(len(first), len(first + second)):
        for damaged in (
            (first + second)[:place] + b"?" + (first + second)[place + 1 :],
            (first + second)[:place],
        ):
            path.write_bytes(damaged)
            if damaged != first:  # nothing tells that it was longer
                with pytest.raises(DataError, match="f: cannot be unpacked"):
                    read_lines(path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing: there is no such file"):
        read_text(tmp_path / "nothing")
    with pytest.raises(DataError, match="is a folder; expected a file"):
        read_text(tmp_path)
    with pytest.raises(DataError, match="nothing: there is no such file or folder"):
        find_files(tmp_path / "nothing", [".json"])
    with pytest.raises(DataError, match=r"holds no file \*\.json or \*\.txt"):
        find_files(tmp_path, [".json", ".txt"])
    with pytest.raises(DataError, match="nothing: there is no such folder"):
        find_file(tmp_path / "nothing", ["dev"], [".tsv"])


def test_files_are_found_packed_or_not(tmp_path: Path) -> None:
    for name in ("DEV.tsv.xz", "train.TSV", "sub/dev.tsv.gz", ".hidden.tsv", "dev.tsv.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_file(tmp_path, ["dev"], [".tsv"]) == tmp_path / "DEV.tsv.xz"
    assert find_file(tmp_path, ["train", "training"], [".tsv"]) == tmp_path / "train.TSV"
    assert find_file(tmp_path, ["test"], [".tsv"]) is None
    names = [str(path.relative_to(tmp_path)) for path in find_files(tmp_path, [".tsv"])]
    assert names == ["DEV.tsv.xz", "sub/dev.tsv.gz", "train.TSV"]
    assert find_files(tmp_path / "dev.tsv.md", [".tsv"]) == [
        tmp_path / "dev.tsv.md"
    ]  # what is named is meant
    assert files_below(tmp_path, [".json"]) == []
    with pytest.raises(DataError, match="nothing: there is no such file or folder"):
        files_below(tmp_path / "nothing", [".json"])
    (tmp_path / "dev.tsv").touch()
    with pytest.raises(DataError, match=r"both DEV\.tsv\.xz and dev\.tsv could be meant"):
        find_file(tmp_path, ["dev"], [".tsv"])


def test_links_are_followed_once_and_hidden_folders_are_not_read(tmp_path: Path) -> None:
    data, store = tmp_path / "data", tmp_path / "store"
    for file in (data / "own.tsv", data / ".ipynb_checkpoints" / "own.tsv", store / "far.tsv"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (data / "linked").symlink_to(store)
    (data / "linked too").symlink_to(store)
    (store / "back").symlink_to(data)
    assert find_files(data, [".tsv"]) == [data / "linked" / "far.tsv", data / "own.tsv"]
    (data / "readme").symlink_to("nowhere")
    (data / "gone.tsv").symlink_to("nowhere")
    for find in (lambda: find_files(data, [".tsv"]), lambda: find_file(data, ["gone"], [".tsv"])):
        with pytest.raises(DataError, match=r"gone\.tsv: is a link to nowhere, which is not there"):
            find()
    assert find_file(data, ["own"], [".tsv"]) == data / "own.tsv"


def test_folds_keep_groups_together_and_do_not_depend_on_the_order() -> None:
    groups = [name for name, size in zip("abcdefg", (9, 7, 5, 5, 3, 2, 1), strict=True) for _ in range(size)]
    folds = group_folds(groups, 3)
    fold_of = dict(zip(groups, folds, strict=True))
    assert [fold_of[group] for group in groups] == folds
    assert sorted(Counter(folds).values()) == [10, 11, 11]
    assert group_folds(groups[::-1], 3) == folds[::-1]


def test_an_empty_fold_is_refused() -> None:
    with pytest.raises(DataError, match="dev.json: holds 2 groups of items, which cannot fill 3 folds"):
        group_folds(["a", "b", "a"], 3, source="dev.json")
    with pytest.raises(ValueError, match="folds is 1"):
        group_folds(["a", "b"], 1)
