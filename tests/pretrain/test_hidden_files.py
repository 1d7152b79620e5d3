# SPDX-License-Identifier: Apache-2.0
"""Hidden files and folders in a corpus: passed over, which is said, unless they are named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("datasets")

from spanbert_ext.pretrain.text.corpus import find_files, passed_over
from spanbert_ext.pretrain.text.file_search import hidden_below
from spanbert_ext.pretrain.text.text_files import CorpusError

HIDDEN = (".git/x.txt", ".ipynb_checkpoints/deeper/n-checkpoint.txt", "._n.txt", "sub/.c.jsonl")


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("n.txt", "sub/m.txt", *HIDDEN, ".git/config", ".git/README.md", ".DS_Store"):
        (tmp_path / "text" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "text" / name).write_text("One.")
    return tmp_path / "text"


@pytest.mark.parametrize("pattern", ["", "**/*", "**/*.*"])
def test_what_is_hidden_is_not_read_which_is_said(folder, pattern):
    name = str(folder / pattern)
    assert find_files([name]) == [folder / "n.txt", folder / "sub" / "m.txt"]
    (said,) = passed_over([name])
    some = sorted(HIDDEN)[:3]
    names = ", ".join(some if not pattern else [f"{folder}/{one}" for one in some])
    assert said.endswith(f": 4 hidden files ({names}, ...), which are read where they are named.")


@pytest.mark.parametrize(
    "given, found",
    [
        (HIDDEN, HIDDEN),
        ([".git"], [".git/x.txt"]),
        ([".*"], ["._n.txt"]),
        ([".*/*.txt"], [".git/x.txt"]),
        (["**/.*"], ["._n.txt", "sub/.c.jsonl"]),
        (["**/.ipynb*/**/*.txt"], [".ipynb_checkpoints/deeper/n-checkpoint.txt"]),
        (["*/*.txt"], ["sub/m.txt"]),
        (["*/../*.txt"], ["n.txt"]),
        (["[.]git/*.txt", "n.txt"], None),
    ],
)
def test_what_is_hidden_is_read_where_it_is_named(folder, monkeypatch, given, found):
    for names in (given, [f"{folder}/{name}" for name in given]):
        monkeypatch.chdir(folder)
        if found is None:
            with pytest.raises(
                CorpusError, match=r"matches no file .*, but 1 hidden file \(.*\.git/x\.txt\)"
            ):
                find_files(names)
        else:
            assert [path.resolve().relative_to(folder) for path in find_files(names)] == [*map(Path, found)]


def test_a_folder_below_a_hidden_one_is_read_where_it_is_named(tmp_path):
    folder = tmp_path / ".cache" / "text"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("One.")
    assert find_files([str(folder)]) == find_files([f"{folder}/*.txt"]) == [folder / "a.txt"]
    assert passed_over([str(folder), f"{folder}/*.txt"]) == []
    with pytest.raises(CorpusError, match=r"holds no file .*, but 1 hidden file \(.cache/text/a.txt\)"):
        find_files([str(tmp_path)])


def test_a_hidden_folder_that_cannot_be_entered_is_no_obstacle(folder, monkeypatch):
    """Nothing is read in it, so nothing of it is missing."""
    scandir = os.scandir

    def refusing(path="."):
        if os.path.basename(os.fspath(path)) == ".git":
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    for name in (str(folder), f"{folder}/**/*.txt"):
        assert find_files([name]) == [folder / "n.txt", folder / "sub" / "m.txt"]
    assert folder / ".git" / "x.txt" not in hidden_below(folder)
