# SPDX-License-Identifier: Apache-2.0
"""JSON lines, Parquet files and datasets as a corpus: the documents of text files, and errors that name the place."""

from __future__ import annotations

import gzip
import json
import lzma
import shlex
from pathlib import Path

import pytest

pytest.importorskip("datasets")

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict

from spanbert_ext.pretrain.text import records, text_files
from spanbert_ext.pretrain.text.corpus import find_files, find_sources, load_documents, read_source
from spanbert_ext.pretrain.text.corpus_names import DatasetName, absolute_names
from spanbert_ext.pretrain.text.text_files import CorpusError

TEXTS = [
    "One line.\r\n\r\nAnother, after a blank one. ",
    "  Grüße \U0001f600\x0c",
    "",
    " \n ",
    None,
    "The last.",
]
DOCUMENTS = ["One line.\nAnother, after a blank one.", "Grüße \U0001f600", "The last."]


def json_lines(texts: list, field: str = "text") -> bytes:
    return "".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts)).encode()


def write_parquet(path: Path, texts: list, kind: pa.DataType | None = None, field: str = "text") -> Path:
    column = pa.array(texts, pa.string()).cast(kind or pa.string())
    pq.write_table(pa.table({"id": range(len(texts)), field: column}), path, row_group_size=2)
    return path


@pytest.mark.parametrize(
    "name, pack", [(".jsonl", bytes), (".ndjson.gz", gzip.compress), (".jsonl.xz", lzma.compress)]
)
def test_json_lines(tmp_path, name, pack):
    path = tmp_path / f"a{name}"
    path.write_bytes(pack(json_lines(TEXTS) + b"\n  \n"))
    assert list(read_source(str(path))) == DOCUMENTS
    assert find_files([str(tmp_path)]) == [path]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet(tmp_path, kind):
    path = write_parquet(tmp_path / "a.parquet", TEXTS, kind)
    assert list(read_source(str(path))) == DOCUMENTS
    path = write_parquet(tmp_path / "b.parquet", TEXTS, kind, "content")
    assert list(read_source(str(path), text_field="content")) == DOCUMENTS
    assert find_files([str(tmp_path)]) == [tmp_path / "a.parquet", path]


def test_datasets_in_folders(tmp_path):
    data = Dataset.from_dict({"text": TEXTS, "id": list(range(len(TEXTS)))})
    data.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": data, "test": data.select([5])}).save_to_disk(tmp_path / "splits")
    (tmp_path / "plain").mkdir()
    write_parquet(tmp_path / "plain" / "train.parquet", TEXTS)
    write_parquet(tmp_path / "plain" / "test.parquet", TEXTS[5:])
    for folder in ("saved", "splits", "plain"):
        assert list(read_source(f"dataset:{tmp_path / folder}")) == DOCUMENTS
    for folder in ("splits", "plain"):
        name = f"dataset:{tmp_path / folder}:test"
        assert list(read_source(name)) == ["The last."]
        with pytest.raises(CorpusError, match=folder):
            list(read_source(f"dataset:{tmp_path / folder}:dev"))
        with pytest.raises(CorpusError, match=f"{folder}.*no field 'body', but 'id', 'text'|'text', 'id'"):
            list(read_source(name, text_field="body"))
    corpus = [f"dataset:{tmp_path / 'splits'}:test", f"dataset:{tmp_path / 'plain'}:train"]
    assert find_sources(corpus) == corpus
    table = load_documents(corpus, str(tmp_path / "cache"))
    assert table["text"][:] == ["The last.", *DOCUMENTS] and table["source"][0] == corpus[0]


def test_a_dataset_that_is_nowhere_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CorpusError, match="dataset:no-such-owner-here/data.*cannot be opened"):
        load_documents(["dataset:no-such-owner-here/data"], str(tmp_path))


def test_names_of_datasets():
    assert DatasetName.parse("dataset:wikimedia/wikipedia@20231101.en:train") == (
        "wikimedia/wikipedia",
        "20231101.en",
        "train",
    )
    assert DatasetName.parse("dataset:squad") == ("squad", None, "train")
    assert DatasetName.parse("dataset:/data/a@b/c:test") == ("/data/a@b/c", None, "test")


@pytest.mark.parametrize("folder", ["set:v1", "set@v1", "set@v1:x", "a@b/set:v1"])
def test_a_folder_that_is_there_is_a_dataset_whatever_its_characters(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    Dataset.from_dict({"text": ["One text of the set. ", "And another one. "]}).save_to_disk(folder)
    with pytest.raises(CorpusError, match="saved by the datasets library") as advice:
        find_sources([folder])
    named = shlex.split(str(advice.value).partition("name it ")[2])[0]
    assert named == f"dataset:{folder}"
    for name in (named, *absolute_names([named]), f"{named}:train"):
        assert len(load_documents([name], str(tmp_path / "cache"))) == 2
    assert DatasetName.parse(f"{named}:test") == (folder, None, "test")


def test_absolute_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    names = ["a.txt", "folder", "x/**/*.txt", "dataset:folder@b:test", "dataset:owner/name", "", "/a.txt"]
    here = str(tmp_path)
    assert absolute_names(names) == [
        *(f"{here}/{name}" for name in names[:3]),
        f"dataset:{here}/folder@b:test",
        "dataset:owner/name",
        "",
        "/a.txt",
    ]


@pytest.mark.parametrize(
    "line, said",
    [
        (b'{"text": "cut off', "line 3 is not JSON"),
        (b'["text"]', "line 3 is a JSON list, expected an object"),
        (b'{"text": 5}', "line 3: field 'text' is of type int"),
        (b'{"title": "a", "body": "b"}', "line 3 has no field 'text', but 'title', 'body'.*--text-field"),
        (b'{"text": "\xff"}', "0xff at byte offset .*line 3"),
        (b"[" * 100_000, "line 3 is not JSON"),
    ],
)
def test_a_bad_line_of_json_is_named(tmp_path, line, said):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(json_lines(["a", "b"]) + line + b"\n")
    with pytest.raises(CorpusError, match=f"bad.jsonl.*{said}"):
        list(read_source(str(path)))


def test_a_line_of_json_that_would_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_LONGEST_RECORD", 1 << 21)
    path = tmp_path / "long.jsonl.gz"
    path.write_bytes(gzip.compress(json_lines(["a", "b" * (1 << 23)])))
    with pytest.raises(CorpusError, match="long.jsonl.gz, line 2 has more than 2,097,152 characters"):
        list(read_source(str(path)))


def test_a_long_text_is_several_documents_as_in_a_text_file(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "LONGEST_DOCUMENT", 100)
    text = "A sentence of some words. " * 30
    (tmp_path / "a.jsonl").write_bytes(json_lines([text]))
    (tmp_path / "a.txt").write_text(text)
    found = list(read_source(str(tmp_path / "a.jsonl")))
    assert len(found) > 5 and found == list(read_source(str(tmp_path / "a.txt")))


def test_marks_inside_a_text_are_none_of_it_as_in_a_text_file():
    text = "\ufeffOne line.\n \ufeffAnother."
    documents = list(text_files.split_text([text]))
    assert list(records.record_documents(text, "here")) == documents == ["One line.\nAnother."]


def test_half_of_a_surrogate_pair_is_replaced(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(rb'{"text": "a \ud83d b \ud83d\ude00"}')
    assert list(read_source(str(tmp_path / "a.jsonl"))) == ["a \ufffd b \U0001f600"]


def test_bad_parquet_files_are_named(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", ["some text here"] * 50)
    with pytest.raises(CorpusError, match="a.parquet has no field 'body', but 'id', 'text'"):
        list(read_source(str(path), text_field="body"))
    with pytest.raises(CorpusError, match="a.parquet: field 'id' is of type int"):
        list(read_source(str(path), text_field="id"))
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], b"not parquet", b"", data[:200] + bytes(100) + data[300:]):
        path.write_bytes(damaged)
        with pytest.raises(CorpusError, match="a.parquet"):
            list(read_source(str(path)))


def test_a_run_remembers_absolute_names(tmp_path, monkeypatch):
    from spanbert_ext.pretrain.cli import read_options

    monkeypatch.chdir(tmp_path)
    assert read_options({"corpus": ["a.txt"]}).corpus == [str(tmp_path / "a.txt")]


@pytest.mark.parametrize("split", [False, True])
def test_a_saved_dataset_without_its_prefix_is_told_how_to_be_named(tmp_path, split):
    data = Dataset.from_dict({"text": ["One."]})
    (DatasetDict({"train": data}) if split else data).save_to_disk(tmp_path / "saved")
    with pytest.raises(
        CorpusError, match=f"was saved by the datasets library: name it dataset:{tmp_path}/saved$"
    ):
        find_sources([str(tmp_path / "saved")])
    assert list(read_source(f"dataset:{tmp_path}/saved")) == ["One."]
