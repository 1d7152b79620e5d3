# SPDX-License-Identifier: Apache-2.0
"""What a run reads, from its options: blocks or pairs, short rows first, updates of tokens."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("datasets")

from tiny_runs import write_corpus

from spanbert_ext.pretrain.run import data
from spanbert_ext.pretrain.settings.options import OptionError, Options
from spanbert_ext.pretrain.text.text_files import CorpusError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> str:
    return str(write_corpus(tmp_path_factory.mktemp("corpus"), documents=12, characters=2500))


def options(corpus: str, **given) -> Options:
    cache = {"cache_dir": f"{corpus}.cache", "vocab_size": 300, "held_out": 0.2, "block_size": 64}
    return Options(corpus=[corpus], max_steps=40, **(cache | given)).resolve()


def load(corpus: str, tmp_path, **given) -> tuple[Options, data.RunData]:
    made = options(corpus, **given)
    return made, data.load_data(made, tmp_path)


def test_pairs_are_trained_on_and_held_out(corpus, tmp_path):
    _, loaded = load(corpus, tmp_path, rows="google-pairs", dupe_factor=3, nsp=True)
    assert loaded.train.pairs and loaded.held_out.pairs and loaded.short is None
    assert set(loaded.train.index["copy"]) == {0, 1, 2} and set(loaded.held_out.index["copy"]) == {0}
    assert loaded.facts["train_pairs"] == len(loaded.train) and loaded.facts["held_out_pairs"] > 0
    assert loaded.train.lengths.max() <= 64
    row = loaded.held_out[0]
    assert row["input_ids"][0] == loaded.tokenizer.cls_token_id and row["next_sentence_label"] in (0, 1)
    once = load(corpus, tmp_path, rows="spanbert-pairs")[1]
    assert "next_sentence_label" not in once.train[0]  # which a model without that head refuses
    assert set(once.train.index["copy"]) == {0}
    other = load(corpus, tmp_path, rows="spanbert-pairs", seed=1)[1]
    assert other.train.index.tolist() != once.train.index.tolist()


def test_pairs_for_want_of_other_documents(corpus, tmp_path, capsys):
    load(corpus, tmp_path, rows="spanbert-pairs", nsp=True)
    assert "for want of others" not in capsys.readouterr().out  # three documents are held out
    load(corpus, tmp_path, rows="spanbert-pairs", nsp=True, held_out=0.05)
    printed = capsys.readouterr().out
    assert "Held out: 1 of 12 documents" in printed and "training pairs" not in printed
    assert "Of the held-out pairs with a random second half 100% have one of the same document" in printed


def test_a_cache_that_cannot_hold_the_pairs(corpus, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(data, "cached_pairs", full)
    with pytest.raises(
        CorpusError, match="in the cache .*text.txt.cache: No space left on device; --cache-dir"
    ):
        load(corpus, tmp_path, rows="google-pairs")


def test_short_rows_come_first(corpus, tmp_path):
    made, loaded = load(corpus, tmp_path, short_phase=0.9, short_block_size=32)
    assert loaded.short.lengths.max() <= 32 < loaded.train.lengths.max() <= 64
    rows = data.make_schedule(made, loaded)
    phases = [rows.schedule.update(number).phase for number in range(40)]
    assert phases == [0] * 36 + [1] * 4
    assert max(len(row["input_ids"]) for row in rows.__getitems__(range(36))) <= 32
    assert max(len(row["input_ids"]) for row in rows[36]) > 32
    assert len({len(rows[number]) for number in range(40)}) == 1 == len({made.batch_size, len(rows[0])})


@pytest.mark.parametrize("rows, dupe_factor, static", [
    ("blocks", 0, False), ("blocks", 10, False), ("google-pairs", 0, False), ("google-pairs", 2, True),
])  # fmt: skip
def test_who_has_static_masks(corpus, tmp_path, rows, dupe_factor, static):
    """The copies of pairs: each has one mask. Blocks' copies are the collator's, which wants their epochs."""
    made, loaded = load(corpus, tmp_path, rows=rows, dupe_factor=dupe_factor)
    assert data.make_schedule(made, loaded).static is static


def test_updates_of_tokens(corpus, tmp_path):
    made, loaded = load(corpus, tmp_path, tokens_per_batch=900, gradient_accumulation=2)
    rows = data.make_schedule(made, loaded, processes=2)
    assert rows.schedule.parts == 4 and len(rows) == 160
    sizes = [loaded.train.lengths[rows.schedule.update(number).rows].sum() for number in range(40)]
    assert np.mean(sizes) == pytest.approx(900, rel=0.1)
    with pytest.raises(OptionError, match="--tokens-per-batch is 100: an update of .* in 2 parts"):
        data.make_schedule(options(corpus, tokens_per_batch=100, gradient_accumulation=2), loaded)


def test_phrases_are_looked_for_where_they_are_masked(corpus, tmp_path):
    pytest.importorskip("spanbert_ext.pretrain.text.phrases")
    rows = data.load_data(_masking(options(corpus, rows="google-pairs"), "entities"), tmp_path).train
    spans = [span for row in rows for span in row["candidates"].tolist()]
    assert len(spans) > 50 and all(end > start for start, end in spans)
    assert "candidates" not in load(corpus, tmp_path)[1].train[0]


def test_a_vocabulary_with_unused_ids(corpus, tmp_path):
    _, loaded = load(corpus, tmp_path, unused_ids=10)
    assert loaded.tokenizer.convert_ids_to_tokens(14) == "[unused9]"
    assert not loaded.train.unigram_counts(300)[5:15].any()


def test_a_prepared_corpus_gives_the_rows_of_its_text(corpus, tmp_path):
    prepare_cli = pytest.importorskip("spanbert_ext.pretrain.prepare_cli")

    texts = " ".join(Path(corpus).read_text(encoding="utf-8").split())
    # documents of one length, so that whole ones are held out of the text too
    documents = [texts[start : start + 800] for start in range(0, len(texts) - 800, 800)]
    even = tmp_path / "even.txt"
    even.write_text("\n\n".join(documents), encoding="utf-8")
    from_text = load(str(even), tmp_path)[1]
    from_text.tokenizer.save_pretrained(tmp_path / "vocabulary")
    prepared = str(tmp_path / "prepared")
    given = ["--tokenizer", str(tmp_path / "vocabulary"), "--documents-per-shard", "5", "--workers", "1"]
    command = ["--corpus", str(even), "--output", prepared, "--phrases", "entities", "--no-progress", *given]
    assert prepare_cli.main(command) == 0

    def read(**options: object) -> data.RunData:
        return load(prepared, tmp_path, **options)[1]

    for side in ("train", "held_out"):
        expected, made = getattr(from_text, side), getattr(read(), side)
        assert len(made) == len(expected) > 5
        assert [row["input_ids"].tolist() for row in made] == [row["input_ids"].tolist() for row in expected]
        assert [row["sample_ids"] for row in made] == [row["sample_ids"] for row in expected]
        assert "candidates" not in made[0]
    assert read().facts["corpus_digest"] == from_text.facts["corpus_digest"]
    pairs = read(rows="google-pairs").train
    both = set(pairs.index["document"]) | set(pairs.index["other"])
    assert both == set(read().train.index["document"])  # no B is of a document that is held out
    with_phrases = data.load_data(_masking(options(prepared), "entities"), tmp_path)
    assert any(len(row["candidates"]) for row in with_phrases.train)
    with pytest.raises(
        OptionError, match="noun-phrases' but .* was prepared with --phrases entities: prepare it"
    ):
        data.load_data(_masking(options(prepared), "noun-phrases"), tmp_path)


def _masking(options: Options, masking: str) -> Options:
    return dataclasses.replace(options, masking=masking)


def test_damage_in_any_table_of_the_cache_is_named(corpus, tmp_path):
    """Of documents, of passages, of tokens."""
    text = tmp_path / "text.txt"
    text.write_text(" ".join(Path(corpus).read_text(encoding="utf-8").split()), encoding="utf-8")
    expected = load(str(text), tmp_path)[1].facts
    tables = sorted(Path(f"{text}.cache").rglob("*.arrow"))
    assert expected["held_out_unit"] == "passages" and len(tables) == 5
    for table in tables:
        whole = table.read_bytes()
        place = len(whole) * 3 // 5
        for harmed in (whole[:place], bytes(len(whole)), whole[:place] + b"\xff\xfe" + whole[place + 2 :]):
            table.write_bytes(harmed)
            with pytest.raises(CorpusError, match=rf"is damaged .*{table.name}\. Delete it, .*: rm -r "):
                load(str(text), tmp_path)
        table.write_bytes(whole)
    assert load(str(text), tmp_path)[1].facts == expected
