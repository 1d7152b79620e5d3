# SPDX-License-Identifier: Apache-2.0
"""Coreference from files to rows."""

from __future__ import annotations

import dataclasses
import json
import tarfile

import numpy as np
import pytest

pytest.importorskip("transformers")

import tiny_documents
import tiny_tasks
from tiny_models import one_thread  # noqa: F401
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from spanbert_ext.evaluate.data.conll import CorefDocument
from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.tasks.coref.options import CorefOptions
from spanbert_ext.evaluate.tasks.coref.segments import collate_documents, encode_document, parts_of
from spanbert_ext.evaluate.tasks.coref.task import CorefTask
from spanbert_ext.evaluate.tasks.form import Conditions, EvaluationError, Fold
from spanbert_ext.evaluate.tasks.probe.data import find_probes
from spanbert_ext.evaluate.tasks.probe.options import ProbeOptions

OPTIONS = CorefOptions(
    epochs=24,
    batch_size=2,
    learning_rate=2e-3,
    max_length=24,
    max_width=4,
    kept_spans=1.5,  # of spans that are no mentions there is else one for four of the mentions
    head_size=64,
    head_dropout=0.0,
    folds=2,
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_tasks.save_checkpoint(tmp_path_factory.mktemp("models") / "tiny", tiny_documents.tokenizer())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    (found,) = CorefTask().load(tiny_documents.write_conll(tmp_path_factory.mktemp("data") / "tiny"), OPTIONS)
    return found


def test_a_tiny_model_learns_its_training_documents_by_heart(checkpoint, data) -> None:
    everything = tuple(range(len(data.documents)))
    shares: list[float] = []
    outcome = CorefTask().train_and_predict(
        checkpoint, data, Fold("all", everything, everything), OPTIONS, Conditions(0, progress=shares.append)
    )
    rows = np.array([row.row for row in outcome.rows])
    for name, metric in CorefTask().metrics(data).items():
        assert metric(rows) > 95, name
    assert [(row.cluster, row.item) for row in outcome.rows] == [(d.name, d.name) for d in data.documents]
    lamp = [[text for _, _, text in cluster] for cluster in outcome.predictions["lamp"]]
    assert ["Anna", "She", "her"] in lamp and ["her boat", "the boat"] in lamp
    facts = outcome.facts
    assert facts["updates"] == 48 and facts["gold_mentions_among_kept_spans"] > 0.95
    assert facts["learning_rates"] == {"encoder.": 2e-3, "": 2e-3}
    assert facts["segments"] == sum(
        len(encode_document(d, tiny_documents.tokenizer(), 24)["segments"]) for d in data.documents
    )
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)
    json.dumps([outcome.predictions, outcome.facts])


def test_the_same_seed_gives_the_same_clusters_and_another_does_not(checkpoint, data) -> None:
    options = dataclasses.replace(OPTIONS, epochs=2, head_dropout=0.3)
    fold = CorefTask().folds(data, options)[0]

    def run(seed: int):
        outcome = CorefTask().train_and_predict(checkpoint, data, fold, options, Conditions(seed))
        return outcome.rows, outcome.predictions, outcome.facts["losses"]

    assert run(1) == run(1)
    assert run(1)[2] != run(2)[2]


def words_of(row, tokenizer) -> list[str]:
    found = []
    for segment, first, last in row["tokens"].tolist():
        pieces = tokenizer.convert_ids_to_tokens(row["segments"][segment][first : last + 1])
        found.append("".join(piece.removeprefix("##") for piece in pieces))
    return found


@pytest.mark.parametrize("longest", [16, 24, 64])
def test_words_of_a_document_are_found_in_its_segments(data, longest: int) -> None:
    tokenizer = tiny_documents.tokenizer()
    for document in data.documents:
        row = encode_document(document, tokenizer, longest)
        assert words_of(row, tokenizer) == [word.lower() for word in document.words]
        assert row["words"] == list(range(len(document.words)))
        assert all(len(segment) <= longest for segment in row["segments"])
        assert all(segment[0] == 2 and segment[-1] == 3 for segment in row["segments"])
        ends = [i for i, word in enumerate(document.words) if word == "."]
        last = [np.flatnonzero(row["tokens"][:, 0] == s)[-1] for s in range(len(row["segments"]))]
        assert longest == 16 or set(last) <= set(ends)
        gold = [
            [(a, b) for a, b, c in row["gold"].tolist() if c == n + 1] for n in range(len(document.clusters))
        ]
        assert gold == [list(cluster) for cluster in document.clusters]


def test_words_of_byte_level_tokens_have_their_blanks(data) -> None:
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    base.train_from_iterator(tiny_documents.plain_texts(), trainer)
    base.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, **names)
    for document in data.documents:
        row = encode_document(document, tokenizer, 24)
        found = words_of(row, tokenizer)
        assert [word.removeprefix("\u0120") for word in found] == document.words
        assert any(word.startswith("\u0120") for word in found)
        assert len(row["segments"]) > 2 and all(len(segment) <= 24 for segment in row["segments"])


def test_words_without_tokens_and_words_that_are_too_long() -> None:
    tokenizer = tiny_documents.tokenizer()
    sentences = (("Anna", "\u200b", "x" * 40, "sang"), ("\u200b", "She"))
    document = CorefDocument("odd", "", sentences, (((0, 0), (5, 5)), ((0, 1), (2, 2))))
    row = encode_document(document, tokenizer, 16)
    assert row["words"] == [0, 2, 3, 5]
    assert words_of(row, tokenizer) == ["anna", "x" * 14, "sang", "she"]
    assert row["gold"].tolist() == [[0, 0, 1], [3, 3, 1], [1, 1, 2]]
    nothing = CorefDocument("nothing", "", (("\u200b",),), ())
    assert encode_document(nothing, tokenizer, 16) is None


def test_parts_of_a_document_hold_all_of_it_and_mentions_within_one(data) -> None:
    tokenizer = tiny_documents.tokenizer()
    row = encode_document(data.documents[0], tokenizer, 16)
    count = len(row["segments"])
    parts = parts_of(row, 2)
    assert len(parts) == -(-count // 2)
    assert [s for part in parts for s in part["segments"]] == row["segments"]
    assert [word for part in parts for word in words_of(part, tokenizer)] == words_of(row, tokenizer)
    for part in parts:
        words, whole = words_of(part, tokenizer), words_of(row, tokenizer)
        shift = part["words"][0]
        for a, b, cluster in part["gold"].tolist():
            assert [a + shift, b + shift, cluster] in row["gold"].tolist()
            assert words[a : b + 1] == whole[a + shift : b + shift + 1]
    (same,) = parts_of(row, count)
    assert same["segments"] == row["segments"] and np.array_equal(same["gold"], row["gold"])


def test_a_batch_points_into_all_of_its_segments(data) -> None:
    tokenizer = tiny_documents.tokenizer()
    rows = [encode_document(document, tokenizer, 24) for document in data.documents[:2]]
    batch = collate_documents(rows, tokenizer.pad_token_id, 24)
    flat = batch["input_ids"].flatten()
    words = [word for row in rows for word in row["words"]]
    assert batch["words"][:, 0].tolist() == [0] * len(rows[0]["words"]) + [1] * len(rows[1]["words"])
    for (document, segment, first, last), word in zip(batch["words"].tolist(), words, strict=True):
        pieces = tokenizer.convert_ids_to_tokens(flat[first : last + 1].tolist())
        text = "".join(piece.removeprefix("##") for piece in pieces)
        assert text == data.documents[document].words[word].lower()
        assert first // batch["input_ids"].shape[1] == segment
    document, first, last, _ = batch["gold"][-1].tolist()
    assert document == 1 and first >= len(rows[0]["words"]) and last < len(words)


def test_documents_without_clusters_to_train_on_are_refused(tmp_path) -> None:
    (tmp_path / "a.conll").write_text(tiny_documents.conll("a", ["[1|Anna] sang ."]))
    with pytest.raises(DataError, match="no cluster of two mentions or more"):
        CorefTask().load(tmp_path, OPTIONS)


def test_names_of_files_or_folders_make_a_split(tmp_path) -> None:
    tiny_documents.write_conll(tmp_path / "loose" / "train", ["lamp", "farm"])
    tiny_documents.write_conll(tmp_path / "loose" / "dev", ["line"])
    (data,) = CorefTask().load(tmp_path / "loose", OPTIONS)
    assert data.name == "loose" and [d.name for d in data.documents] == ["farm", "lamp", "line"]
    (fold,) = CorefTask().folds(data, OPTIONS)
    assert (fold.train, fold.test) == ((0, 1), (2,))
    tiny_documents.write_conll(tmp_path / "loose" / "more", ["song"])
    (data,) = CorefTask().load(tmp_path / "loose", OPTIONS)
    assert data.split == 0 and len(CorefTask().folds(data, OPTIONS)) == 2

    packed = tmp_path / "packed"
    packed.mkdir()
    for part in ("train", "dev"):
        with tarfile.open(packed / f"{part}.tar.xz", "w:xz") as archive:
            archive.add(tmp_path / "loose" / part, arcname=part)
    (data,) = CorefTask().load(packed, OPTIONS)
    assert data.name == "packed" and data.split == 2 and len(data.files) == 2
    (data,) = CorefTask().load(packed / "train.tar.xz", OPTIONS)
    assert data.split == 0 and len(data.documents) == 2


def test_the_same_document_twice_is_refused(tmp_path) -> None:
    tiny_documents.write_conll(tmp_path / "train", ["lamp"])
    tiny_documents.write_conll(tmp_path / "dev", ["lamp"])
    with pytest.raises(DataError, match=r"the document 'lamp' is also in .*train"):
        CorefTask().load(tmp_path, OPTIONS)


def test_the_parts_of_a_document_stay_together(tmp_path) -> None:
    lines = {name: tiny_documents.conll("both", tiny_documents.DOCUMENTS[name]) for name in ("lamp", "farm")}
    lines["farm"] = lines["farm"].replace("part 000", "part 001")
    tiny_documents.write_conll(tmp_path)
    for name, text in lines.items():
        (tmp_path / f"{name}.conll").write_text(text, encoding="utf-8")
    (data,) = CorefTask().load(tmp_path, OPTIONS)
    parts = {i for i, document in enumerate(data.documents) if document.name.startswith("both")}
    folds = CorefTask().folds(data, dataclasses.replace(OPTIONS, folds=len(data.documents) - 1))
    assert [set(fold.test) & parts for fold in folds if set(fold.test) & parts] == [parts]
    (rows,) = CorefTask().constant_answers(data, sorted(parts))
    assert [(row.cluster, row.item) for row in rows] == [("both", "both part 1"), ("both", "both")]
    items = [item for probe in find_probes(tmp_path, ProbeOptions()) for item in probe.items]
    assert {item.cluster for item in items if item.id.startswith("both")} == {"both"}


def test_more_folds_than_documents_is_refused(data) -> None:
    with pytest.raises(EvaluationError, match="--folds is 5 but the data has 4 documents"):
        CorefTask().folds(data, dataclasses.replace(OPTIONS, folds=5))
