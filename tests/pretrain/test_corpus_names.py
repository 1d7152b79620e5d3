# SPDX-License-Identifier: Apache-2.0
"""Names with a pattern's or a shell's characters: read is what was named and nothing else, and commands that messages
advise can be given as they are printed."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

pytest.importorskip("datasets")

from datasets import Dataset

from spanbert_ext.pretrain.text.corpus import find_files, find_sources, load_documents, passed_over
from spanbert_ext.pretrain.text.corpus_names import absolute_names, typed
from spanbert_ext.pretrain.text.text_files import CorpusError


@pytest.fixture
def bracketed(tmp_path, monkeypatch) -> Path:
    """A working folder whose name, taken for a pattern, is that of another."""
    for name in (
        "c [2020]/right.txt",
        "c [2020]/sub/too.txt",
        "c 2/right.txt",
        "c 2/wrong.txt",
        "c 2/sub/no.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("One.")
    monkeypatch.chdir(tmp_path / "c [2020]")
    monkeypatch.setenv("HOME", str(tmp_path / "c [2020]"))
    return tmp_path / "c [2020]"


@pytest.mark.parametrize("before", ["", "./", "~/", "../c [[]2020]/", "sub/../"])
def test_a_folder_around_a_pattern_is_none_of_it(bracketed, before):
    for pattern, found in (("*.txt", ["right.txt"]), ("**/*.txt", ["right.txt", "sub/too.txt"])):
        for names in ([before + pattern], absolute_names([before + pattern])):
            assert {path.resolve() for path in find_files(names)} == {bracketed / name for name in found}
    (name,) = absolute_names(["*.txt"])
    assert absolute_names([name]) == [name] and os.path.isabs(name)


def test_a_file_that_is_missing_is_not_looked_for_elsewhere(bracketed):
    assert absolute_names(["right.txt", "sub"]) == [str(bracketed / "right.txt"), str(bracketed / "sub")]
    for names in (["wrong.txt"], absolute_names(["wrong.txt"]), absolute_names(["~/wrong.txt"])):
        with pytest.raises(CorpusError, match=r"wrong\.txt' does not exist"):
            find_files(names)


def test_the_advised_pattern_finds_the_file(bracketed):
    (bracketed / "it's.md").write_text("One.")
    (bracketed.parent / "c 2" / "no.md").write_text("One.")
    for name in (".", str(bracketed)):
        (said,) = passed_over([name])
        _, option, pattern = shlex.split(said.partition("reads such text")[2].removesuffix("."))
        assert option == "--corpus"
        assert find_files([pattern]) == [bracketed / "it's.md"]


@pytest.mark.parametrize("name", ["plain", "my prep", "-it's $HOME", "c [2020]*"])
def test_a_path_of_an_advised_command_comes_back_from_a_shell(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert shlex.split(f"rm -r {typed(name)}") == ["rm", "-r", str(tmp_path / name)]


def test_the_advised_removal_of_a_damaged_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("One.")
    load_documents(["a.txt"], "-my cache")
    (table,) = (tmp_path / "-my cache").rglob("*.arrow")
    table.write_bytes(b"")
    with pytest.raises(CorpusError, match="is damaged") as error:
        load_documents(["a.txt"], "-my cache")
    *_, rm, r, folder = shlex.split(str(error.value))
    assert (rm, r) == ("rm", "-r") and os.path.isabs(folder) and table.is_relative_to(folder)


def test_a_saved_dataset_is_named_as_a_shell_reads_it(tmp_path):
    Dataset.from_dict({"text": ["One."]}).save_to_disk(tmp_path / "my data")
    with pytest.raises(CorpusError, match="was saved by the datasets library") as error:
        find_sources([str(tmp_path / "my data")])
    assert shlex.split(str(error.value))[-1] == f"dataset:{tmp_path}/my data"
