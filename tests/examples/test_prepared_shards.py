# SPDX-License-Identifier: Apache-2.0
"""Examples of prepared corpora: shards written by datatrove's tasks, shards divided over processes."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_models import tiny_texts, tiny_tokenizer

from spanbert_ext.pretrain.prepare.prepare import finish
from spanbert_ext.pretrain.prepare.prepared import load_prepared
from spanbert_ext.pretrain.text.corpus import digest
from spanbert_ext.pretrain.text.manifest import PROGRESS, PreparedError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def corpus(tmp_path: Path) -> list[str]:
    """Two files, a task each; returns the texts."""
    texts = [f"{text} Text number {number}." for number, text in enumerate(tiny_texts(30))]
    (tmp_path / "corpus").mkdir()
    for name, part in (("a", texts[:18]), ("b", texts[18:])):
        ids = [f"{name}{number}" for number in range(len(part))]
        pq.write_table(pa.table({"text": part, "id": ids}), tmp_path / "corpus" / f"{name}.parquet")
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return texts


def test_datatrove_writes_the_shards_in_two_tasks(corpus, tmp_path, monkeypatch, capsys):
    pytest.importorskip("datatrove")
    folders = [str(tmp_path / name) for name in ("corpus", "out")]
    more = ["--tokenizer", str(tmp_path / "tokenizer"), "--tasks", "2", "--documents-per-shard", "5"]
    monkeypatch.setattr(sys, "argv", ["datatrove_prepare.py", *folders, *more])
    names = runpy.run_path(str(EXAMPLES / "datatrove_prepare.py"))
    monkeypatch.setitem(names["main"].__globals__, "finish", lambda *_: {"counts": "later"})
    names["main"]()
    output = tmp_path / "out"
    with pytest.raises(PreparedError, match="has not ended"):
        load_prepared(output)
    with pytest.raises(PreparedError, match="2 of 3 parts"):
        finish(output, tiny_tokenizer(), 3)
    part = (output / f"00001-{PROGRESS}").read_text()
    manifest = finish(output, tiny_tokenizer(), 2)
    assert manifest["settings"]["phrases"] is None  # which training asks for
    (output / f"00001-{PROGRESS}").write_text(part)  # as if stopped before this one was deleted
    assert finish(output, tiny_tokenizer(), 2) == manifest == finish(output, tiny_tokenizer(), 2)
    assert not list(output.glob(f"*{PROGRESS}"))
    found = load_prepared(output)
    assert found["digest"][:] == [digest(text) for text in corpus]
    assert [shard["file"] for shard in manifest["shards"]] == [
        *(f"00000-shard-{number:05d}.arrow" for number in range(4)),
        *(f"00001-shard-{number:05d}.arrow" for number in range(3)),
    ]


def test_each_process_streams_rows_of_its_own(corpus, tmp_path, monkeypatch, capsys):
    from spanbert_ext.pretrain.prepare.prepare import PrepareOptions, prepare

    prepared = str(tmp_path / "prepared")
    tokenizer = str(tmp_path / "tokenizer")
    prepare(PrepareOptions([str(tmp_path / "corpus")], tokenizer=tokenizer, output=prepared, workers=1))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("\n".join(corpus))
    seen = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        names = runpy.run_path(str(EXAMPLES / "streaming_shards.py"))
        rows = []

        def collator_of(tokenizer, seed, kept=rows, real=names["DataCollatorForSpanMasking"]):
            collator = real(tokenizer, seed=seed)

            def collate(features):
                kept.extend(tuple(feature["input_ids"]) for feature in features)
                return collator(features)

            collate.set_epoch = collator.set_epoch
            return collate

        monkeypatch.setitem(names["main"].__globals__, "DataCollatorForSpanMasking", collator_of)
        monkeypatch.setattr(sys, "argv", ["x", "--prepared", prepared, "--steps", "2", "--text", "text.txt"])
        names["main"]()
        seen.append(set(rows))
        assert f"process {rank} step 1 loss" in capsys.readouterr().out
    assert seen[0] and seen[1] and not seen[0] & seen[1]
