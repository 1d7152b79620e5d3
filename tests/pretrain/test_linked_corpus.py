# SPDX-License-Identifier: Apache-2.0
"""A corpus behind symbolic links: read as what is named, once, and again after a change of what they lead to."""

from __future__ import annotations

import gzip
import lzma

import pytest

pytest.importorskip("datasets")

import pyarrow as pa
import pyarrow.parquet as pq

from spanbert_ext.pretrain.prepare.prepare import PrepareOptions, _settings
from spanbert_ext.pretrain.text.corpus import find_files, find_sources, load_documents, source_state

RECORD = b'{"text": "One record."}\n'


def parquet_bytes(text: str) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": [text]}), sink)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "name, content",
    [
        ("train.jsonl", RECORD),
        ("train.NDJSON", RECORD),
        ("train.jsonl.gz", gzip.compress(RECORD)),
        ("train.ndjson.xz", lzma.compress(RECORD)),
        ("train.parquet", parquet_bytes("One record.")),
        ("train.txt", b"One record.\n"),
        ("train.txt.gz", gzip.compress(b"One record.\n")),
        ("train.md", b"One record.\n"),
    ],
)
def test_a_link_is_read_under_its_own_name(tmp_path, name, content):
    """As in the hub's cache: the ending is the link's, and what it leads to has none."""
    blob, link = tmp_path / "blobs" / "abc123", tmp_path / "snap" / name
    for path, data in ((blob, content), (link, None)):
        path.parent.mkdir()
        path.write_bytes(data) if data else path.symlink_to("../blobs/abc123")
    by_folder = [str(link.parent)] if not name.endswith(".md") else []
    for corpus in ([str(link)], [f"{link.parent}/*{link.suffix}"], by_folder):
        if corpus:
            documents = load_documents(corpus, str(tmp_path / "cache"))
            assert documents["text"][:] == ["One record."] and documents["source"][:] == [str(link)]


def test_a_change_behind_a_link_is_seen(tmp_path):
    (tmp_path / "a.jsonl").symlink_to("blob")
    for count in (1, 2):
        (tmp_path / "blob").write_bytes(count * RECORD)
        assert len(load_documents([str(tmp_path / "a.jsonl")], str(tmp_path / "cache"))) == count


def test_two_links_to_one_file_are_one_file_of_the_first_name(tmp_path):
    (tmp_path / "blob").write_bytes(RECORD)
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).symlink_to("blob")
    names = [str(tmp_path / "b.jsonl"), str(tmp_path)]
    assert find_sources(names) == names[:1] and find_files(names[1:]) == [tmp_path / "a.jsonl"]
    assert load_documents(names, str(tmp_path / "cache"))["text"][:] == ["One record."]


def test_what_a_link_is_called_counts_as_a_change_where_it_is_another_form(tmp_path):
    (tmp_path / "blob").write_bytes(RECORD)
    (tmp_path / "folder").symlink_to(tmp_path)
    for name in ("a.jsonl", "b.ndjson", "c.txt"):
        (tmp_path / name).symlink_to("blob")
    json, same, text = (source_state(str(tmp_path / name)) for name in ("a.jsonl", "b.ndjson", "c.txt"))
    assert json == same == source_state(str(tmp_path / "folder" / "a.jsonl")) != text
    cache = str(tmp_path / "cache")
    assert load_documents([str(tmp_path / "a.jsonl")], cache)["text"][:] == ["One record."]
    assert load_documents([str(tmp_path / "c.txt")], cache)["text"][:] == [RECORD.decode().strip()]
    of = [_settings(PrepareOptions(), [str(tmp_path / name)])["sources"] for name in ("a.jsonl", "c.txt")]
    assert of[0] != of[1]
