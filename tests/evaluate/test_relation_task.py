# SPDX-License-Identifier: Apache-2.0
"""Relations from files to rows."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("transformers")

import tiny_documents
import tiny_tasks
from tiny_models import one_thread  # noqa: F401

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.tasks.form import Conditions, EvaluationError, Fold
from spanbert_ext.evaluate.tasks.relation.files import negative_of
from spanbert_ext.evaluate.tasks.relation.options import RelationOptions
from spanbert_ext.evaluate.tasks.relation.task import RelationTask

OPTIONS = RelationOptions(epochs=25, batch_size=8, learning_rate=3e-3, max_length=32, folds=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_tasks.save_checkpoint(tmp_path_factory.mktemp("models") / "tiny", tiny_documents.tokenizer())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "TRAIN_FILE.TXT"
    path.write_text(tiny_documents.semeval(), encoding="utf-8")
    (found,) = RelationTask().load(path, OPTIONS)
    return found


def learnt(checkpoint, data, options: RelationOptions):
    everything = tuple(range(len(data.relations)))
    return RelationTask().train_and_predict(
        checkpoint, data, Fold("all", everything, everything), options, Conditions(0)
    )


def test_a_tiny_model_learns_its_training_relations_by_heart(checkpoint, data) -> None:
    outcome = learnt(checkpoint, data, OPTIONS)
    rows = np.array([row.row for row in outcome.rows])
    metrics = RelationTask().metrics(data)
    assert list(metrics) == ["micro F1", "official macro F1"]
    assert metrics["micro F1"](rows) > 95
    assert outcome.predictions["1"] == "Cause-Effect(e1,e2)" and outcome.predictions["4"] == "Other"
    assert (outcome.facts["spans"], outcome.facts["read"]) == ("markers", "starts")
    assert data.name == "SemEval-2010-8" and negative_of(data.labels) == "Other" and len(data.labels) == 19
    json.dumps([outcome.predictions, outcome.facts])


def test_the_same_seed_gives_the_same_answers_and_another_does_not(checkpoint, data) -> None:
    options = dataclasses.replace(OPTIONS, epochs=2)
    fold = RelationTask().folds(data, options)[0]

    def run(seed: int):
        outcome = RelationTask().train_and_predict(checkpoint, data, fold, options, Conditions(seed))
        return outcome.rows, outcome.predictions, outcome.facts["losses"]

    assert run(1) == run(1)
    assert run(1)[2] != run(2)[2]


def tacred(part: str, count: int) -> list[dict]:
    found = []
    for number in range(count):
        wrote = number % 2 == 0
        found.append(
            {
                "id": f"{part}{number}",
                "docid": f"{part}-doc{number // 2}",
                "token": ["Anna", "built" if wrote else "painted", "the", "boat", "."],
                "subj_start": 0,
                "subj_end": 0,
                "obj_start": 3,
                "obj_end": 3,
                "subj_type": "PERSON",
                "obj_type": "THING",
                "relation": "per:built" if wrote else "no_relation",
            }
        )
    return found


def test_types_stand_for_spans_where_the_data_has_them(checkpoint, tmp_path) -> None:
    for part, count in (("train", 8), ("dev", 4)):
        (tmp_path / f"{part}.json").write_text(json.dumps(tacred(part, count)))
    (data,) = RelationTask().load(tmp_path, OPTIONS)
    (fold,) = RelationTask().folds(data, OPTIONS)
    assert (fold.name, len(fold.train), len(fold.test)) == ("dev", 8, 4)
    assert list(RelationTask().metrics(data)) == ["micro F1"] and negative_of(data.labels) == "no_relation"
    outcome = RelationTask().train_and_predict(checkpoint, data, fold, OPTIONS, Conditions(0))
    assert (outcome.facts["spans"], outcome.facts["read"]) == ("types", "cls")
    rows = np.array([row.row for row in outcome.rows])
    assert RelationTask().metrics(data)["micro F1"](rows) == 100
    assert {row.cluster for row in outcome.rows} == {"dev-doc0", "dev-doc1"}

    (tmp_path / "dev.json").write_text(json.dumps(tacred("train", 2)))
    with pytest.raises(DataError, match=r"dev\.json: 'train0' is also in train\.json"):
        RelationTask().load(tmp_path, OPTIONS)


def marked(labels: list[str]) -> str:
    return "\n".join(
        json.dumps({"text": f"the [[ train {n} ]] carried << milk >> .", "label": label})
        for n, label in enumerate(labels)
    )


def test_a_folder_may_hold_other_texts_and_a_data_set_is_called_after_it(tmp_path) -> None:
    folder = tmp_path / "carries"
    folder.mkdir()
    (folder / "README.txt").write_text("About this data.\n")
    (folder / "other.json").write_text('{"data": []}')
    (folder / "train.txt").write_text(marked(["A", "B", "A"]))
    (folder / "dev.txt").write_text(marked(["B"]))
    (data,) = RelationTask().load(folder, OPTIONS)
    assert (data.name, data.split, data.labels) == ("carries", 3, ("A", "B"))
    assert list(RelationTask().metrics(data)) == ["micro F1", "macro F1"] and negative_of(data.labels) is None
    with pytest.raises(EvaluationError, match="--spans is types, but carries has none"):
        RelationTask().load(folder, dataclasses.replace(OPTIONS, spans="types"))


def test_wrong_files_are_refused(tmp_path) -> None:
    readme = tmp_path / "README.txt"
    readme.write_text("About this data.\n")
    for path in (tmp_path, readme):
        with pytest.raises(DataError, match="holds no relations"):
            RelationTask().load(path, OPTIONS)
    train, dev = tmp_path / "train.txt", tmp_path / "dev.txt"
    train.write_text(marked(["A", "A"]))
    with pytest.raises(DataError, match=r"train\.txt: has 'A' as its only label"):
        RelationTask().load(tmp_path, OPTIONS)
    train.write_text(marked(["A", "B"]))
    dev.write_text(marked(["B", "C"]))
    with pytest.raises(DataError, match=r"dev\.txt:2: label: the label 'C' is unknown"):
        RelationTask().load(tmp_path, OPTIONS)
    dev.write_text(tiny_documents.semeval())
    with pytest.raises(DataError, match="has another format than train.txt"):
        RelationTask().load(tmp_path, OPTIONS)
    train.write_text('{"text": "no marks", "labels": "A"}')
    with pytest.raises(DataError, match=r"train\.txt:1: text: has '\[\['"):
        RelationTask().load(train, OPTIONS)


def test_semevals_two_files_are_one_data_set(tmp_path) -> None:
    text = tiny_documents.semeval()
    (tmp_path / "TRAIN_FILE.TXT").write_text(text)
    lines = [f"90{line}" if line[:1].isdigit() else line for line in text.splitlines()[:8]]
    (tmp_path / "TEST_FILE_FULL.TXT").write_text("\n".join(lines))
    (data,) = RelationTask().load(tmp_path, OPTIONS)
    assert (data.name, data.split, len(data.relations)) == ("SemEval-2010-8", 16, 18)
