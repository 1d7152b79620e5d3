# SPDX-License-Identifier: Apache-2.0
"""Question answering from files to rows."""

from __future__ import annotations

import dataclasses
import json

import pytest

pytest.importorskip("transformers")

import tiny_tasks
from tiny_models import one_thread  # noqa: F401

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.tasks.form import Conditions, EvaluationError, Fold
from spanbert_ext.evaluate.tasks.qa.options import QaOptions
from spanbert_ext.evaluate.tasks.qa.task import QaTask

OPTIONS = QaOptions(epochs=60, batch_size=13, learning_rate=4e-3, max_length=64, stride=16, folds=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_tasks.save_checkpoint(
        tmp_path_factory.mktemp("models") / "tiny", tiny_tasks.squad_tokenizer()
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tiny_tasks.write_squad(tmp_path_factory.mktemp("data") / "tiny_dev.json")
    (found,) = QaTask().load(path, OPTIONS)
    return found


@pytest.fixture(scope="module")
def learnt(checkpoint, data):
    """Trained and tested on the same questions, whose threshold is chosen on them too."""
    everything = tuple(range(len(data.questions)))
    shares: list[float] = []
    fold = Fold("all", everything, everything, everything)
    return QaTask().train_and_predict(
        checkpoint, data, fold, OPTIONS, Conditions(seed=0, progress=shares.append)
    ), shares


def test_a_tiny_model_learns_its_training_questions_by_heart(learnt, data) -> None:
    import numpy as np

    outcome, shares = learnt
    rows = np.array([row.row for row in outcome.rows])
    for name, metric in QaTask().metrics(data).items():
        assert metric(rows) > 90, name
    assert [row.item for row in outcome.rows] == [question.id for question in data.questions]
    assert {row.cluster for row in outcome.rows} == {"Lighthouse", "Orchard", "Railway"}
    assert outcome.predictions["Lighthouse-1"]["answer"] == "Anna Grey"
    assert outcome.predictions["Lighthouse-4"]["answer"] == ""
    assert outcome.predictions["Lighthouse-4"]["best"][0]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)
    json.dumps([outcome.predictions, outcome.facts])


def test_facts_say_how_it_was_trained(learnt) -> None:
    facts = learnt[0].facts
    assert facts["updates"] == 60 and facts["training_rows"] == facts["windows"] == 13
    assert facts["tokens_of_a_window"] == 64
    assert facts["losses"][-1][1] < facts["losses"][0][1] / 4
    assert "diverged" not in facts


def test_encoders_with_and_without_token_types_take_turns(checkpoint, data, tmp_path) -> None:
    """With one vocabulary, whose windows are kept."""
    other = tiny_tasks.save_checkpoint(tmp_path / "one", tiny_tasks.squad_tokenizer(), type_vocab_size=1)
    task, options = QaTask(), dataclasses.replace(OPTIONS, epochs=0.1)
    fold = task.folds(data, options)[0]
    found = [
        task.train_and_predict(one, data, fold, options, Conditions(0))
        for one in (checkpoint, other, checkpoint)
    ]
    assert found[0].rows == found[2].rows and len(found[1].rows) == len(fold.test)


def test_the_same_seed_gives_the_same_answers_and_another_does_not(checkpoint, data) -> None:
    options = dataclasses.replace(OPTIONS, epochs=2)  # 2 updates
    fold = QaTask().folds(data, options)[0]

    def run(seed: int):
        outcome = QaTask().train_and_predict(checkpoint, data, fold, options, Conditions(seed))
        return outcome.rows, outcome.predictions, outcome.facts["losses"]

    assert run(1) == run(1)
    assert run(1)[2] != run(2)[2]


def test_windows_are_made_once_for_checkpoints_with_one_tokenizer(
    checkpoint, data, tmp_path, monkeypatch
) -> None:
    from spanbert_ext.evaluate.tasks.qa import task as module

    made, make = [], module.make_windows
    monkeypatch.setattr(module, "make_windows", lambda *given: made.append(given) or make(*given))
    monkeypatch.setattr(module, "fine_tune", lambda *given, **named: {})
    other = tiny_tasks.save_checkpoint(tmp_path / "other", tiny_tasks.squad_tokenizer(), seed=1)
    third = tiny_tasks.save_checkpoint(tmp_path / "third", tiny_tasks.tokenizer_of(["other words"]))
    fold = QaTask().folds(data, OPTIONS)[0]
    task, fresh = QaTask(), {}
    for each, count in ((checkpoint, 1), (other, 1), (third, 2), (checkpoint, 2)):
        outcome = task.train_and_predict(each, data, fold, OPTIONS, Conditions(0))
        assert len(made) == count
        assert fresh.setdefault(each.name, outcome.rows) == outcome.rows
    assert QaTask().train_and_predict(other, data, fold, OPTIONS, Conditions(0)).rows == fresh["other"]


def test_folds_test_every_article_once_and_hold_out_whole_ones(data) -> None:
    folds = QaTask().folds(data, OPTIONS)
    articles = [question.article for question in data.questions]
    assert [fold.name for fold in folds] == ["1 of 3", "2 of 3", "3 of 3"]
    assert sorted(i for fold in folds for i in fold.test) == list(range(len(articles)))
    for fold in folds:
        parts = [{articles[i] for i in part} for part in (fold.train, fold.held_out, fold.test)]
        assert all(parts) and len(set.union(*parts)) == sum(map(len, parts)) == 3


def test_without_unanswerable_questions_nothing_is_held_out(data) -> None:
    answerable = dataclasses.replace(data, questions=tuple(q for q in data.questions if q.answerable))
    assert not any(fold.held_out for fold in QaTask().folds(answerable, OPTIONS))
    assert list(QaTask().metrics(answerable)) == ["F1", "EM"]
    assert list(QaTask().metrics(data)) == ["F1", "EM", "F1 with no-answer", "EM with no-answer"]


def test_more_folds_than_articles_is_refused(data) -> None:
    with pytest.raises(EvaluationError, match="--folds is 4 but the data has 3 articles"):
        QaTask().folds(data, dataclasses.replace(OPTIONS, folds=4))


def test_files_named_train_and_dev_are_one_data_set(tmp_path) -> None:
    tiny_tasks.write_squad(tmp_path / "train-v2.0.json", tiny_tasks.ARTICLES[:2])
    tiny_tasks.write_squad(tmp_path / "dev-v2.0.json", tiny_tasks.ARTICLES[2:])
    tiny_tasks.write_squad(tmp_path / "other_dev.json")
    split, other = sorted(QaTask().load(tmp_path, OPTIONS), key=lambda data: data.name, reverse=True)
    assert split.name == "v2.0" and [file.name for file in split.files] == [
        "train-v2.0.json",
        "dev-v2.0.json",
    ]
    (fold,) = QaTask().folds(split, OPTIONS)
    assert fold.name == "dev" and {split.questions[i].article for i in fold.test} == {"Railway"}
    assert other.name == "other_dev" and other.split == 0 and len(other.files) == 1


def test_qamr_wants_its_sentences(tmp_path) -> None:
    (tmp_path / "dev.tsv").write_text("s1\t0 2\tw\t0\t0\tWho sings?\t0 1\ta:0 1\tb:1\n")
    with pytest.raises(DataError, match=r"expected wiki-sentences\.tsv beside it"):
        QaTask().load(tmp_path / "dev.tsv", OPTIONS)
    (tmp_path / "wiki-sentences.tsv").write_text("s1\tAda Grey sings .\n")
    for path in (tmp_path, tmp_path / "dev.tsv"):
        (data,) = QaTask().load(path, OPTIONS)
        assert (data.name, [file.name for file in data.files]) == (
            tmp_path.name,
            ["dev.tsv", "wiki-sentences.tsv"],
        )
        assert [answer.text for answer in data.questions[0].answers] == ["Ada Grey", "Ada Grey", "Grey"]


def test_qamr_is_found_through_links_and_beside_squad_but_not_in_hidden_folders(tmp_path) -> None:
    for name in ("store", "data/.hidden"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "wiki.dev.tsv").write_text("s1\t0 2\tw\t0\t0\tWho sings?\t0 1\ta:0 1\tb:1\n")
        (tmp_path / name / "wiki-sentences.tsv").write_text("s1\tAda Grey sings .\n")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "store")
    tiny_tasks.write_squad(tmp_path / "data" / "tiny.json")
    found = QaTask().load(tmp_path / "data", OPTIONS)
    assert [(data.name, data.files[0].parent.name) for data in found] == [
        ("wiki.dev", "linked"),
        ("tiny", "data"),
    ]
    (alone,) = QaTask().load(tmp_path / "store" / "wiki.dev.tsv", OPTIONS)
    assert alone.questions == found[0].questions


def test_a_question_in_train_and_dev_is_refused(tmp_path) -> None:
    for part in ("train", "dev"):
        tiny_tasks.write_squad(tmp_path / f"{part}.json")
    with pytest.raises(DataError, match=r"dev\.json.*'Lighthouse-0' is also in train\.json"):
        QaTask().load(tmp_path, OPTIONS)


def test_a_split_of_one_data_set_twice_is_refused(tmp_path) -> None:
    tiny_tasks.write_squad(tmp_path / "dev.json")
    tiny_tasks.write_squad(tmp_path / "validation.json")
    with pytest.raises(DataError, match="the same part of the same data set"):
        QaTask().load(tmp_path, OPTIONS)


def test_an_encoder_without_its_weights_is_refused(tmp_path, data) -> None:
    from safetensors.torch import load_file, save_file

    checkpoint = tiny_tasks.save_checkpoint(
        tmp_path / "broken", tiny_tasks.squad_tokenizer(), num_hidden_layers=2
    )
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    lost = {name: value for name, value in weights.items() if "layer.1." not in name}
    save_file(lost, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    fold = QaTask().folds(data, OPTIONS)[0]
    with pytest.raises(EvaluationError, match="lacks 16 weights of its encoder"):
        QaTask().train_and_predict(checkpoint, data, fold, OPTIONS, Conditions(0))
