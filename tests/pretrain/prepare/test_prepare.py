# SPDX-License-Identifier: Apache-2.0
"""spanbert-prepare: the same shards whatever made them, and what is read of them."""

from __future__ import annotations

import hashlib
import itertools
import shutil

import numpy as np
import pytest

pytest.importorskip("datasets")

from datasets import load_dataset
from datasets.distributed import split_dataset_by_node
from preparations import PER_SHARD, bytes_of

from spanbert_ext.pretrain.prepare import shards as shards_module
from spanbert_ext.pretrain.prepare.prepare import prepare
from spanbert_ext.pretrain.prepare.prepared import load_prepared, stream_prepared
from spanbert_ext.pretrain.rows.tokenizer import load_tokenizer
from spanbert_ext.pretrain.text.corpus import digest
from spanbert_ext.pretrain.text.manifest import PreparedError
from spanbert_ext.pretrain.text.sentences import split_sentences


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


def test_a_finished_preparation_is_left_alone(options, tmp_path):
    manifest = prepare(options())
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert prepare(options(workers=2)) == manifest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times
    with pytest.raises(PreparedError, match="already holds a prepared corpus"):
        prepare(options(documents_per_shard=5))
    assert len(prepare(options(documents_per_shard=5, overwrite=True))["shards"]) == 6
    assert len(list((tmp_path / "out").glob("shard-*"))) == 6


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
