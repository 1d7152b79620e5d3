# SPDX-License-Identifier: Apache-2.0
"""Probes from files to rows."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")

import tiny_documents
import tiny_tasks
import torch
from tiny_models import one_thread  # noqa: F401
from transformers import AutoModel

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.tasks.form import Checkpoint, Conditions, EvaluationError, Fold
from spanbert_ext.evaluate.tasks.loading import load_model
from spanbert_ext.evaluate.tasks.probe import task as probe_task
from spanbert_ext.evaluate.tasks.probe.features import read_states
from spanbert_ext.evaluate.tasks.probe.heads import features_of, train_and_score
from spanbert_ext.evaluate.tasks.probe.items import Item
from spanbert_ext.evaluate.tasks.probe.options import ProbeOptions
from spanbert_ext.evaluate.tasks.probe.task import ProbeTask

OPTIONS = ProbeOptions(folds=2, epochs=3.0, head_size=16, max_length=96)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_tasks.save_checkpoint(tmp_path_factory.mktemp("models") / "tiny", tiny_documents.tokenizer())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tiny"
    tiny_documents.write_conll(path)
    (path / "gap-development.tsv").write_text(tiny_documents.gap())
    (path / "TRAIN_FILE.TXT").write_text(tiny_documents.semeval())
    (path / "README.txt").write_text("About this data.\n")
    (path / "numbers.tsv").write_text("a\tb\n")
    return path


@pytest.fixture(scope="module")
def sets(folder):
    return {data.name: data for data in ProbeTask().load(folder, OPTIONS)}


def test_a_folder_has_a_data_set_for_every_probe(sets) -> None:
    assert list(sets) == [
        "coreference, tiny",
        "mentions, tiny",
        "length, tiny",
        "words, tiny",
        "coreference, GAP",
        "relations, SemEval-2010-8",
    ]
    assert {name: list(ProbeTask().metrics(data)) for name, data in sets.items()} == {
        "coreference, tiny": ["F1", "accuracy"],
        "mentions, tiny": ["F1", "accuracy"],
        "length, tiny": ["accuracy"],
        "words, tiny": ["words found"],
        "coreference, GAP": ["F1", "F1 feminine", "F1 masculine", "accuracy"],
        "relations, SemEval-2010-8": ["micro F1", "official macro F1"],
    }


def test_data_travels_to_other_processes(sets) -> None:
    for data in sets.values():
        assert pickle.loads(pickle.dumps(data)) == data


def test_every_probe_answers_every_item_from_states_that_are_computed_once(
    checkpoint, sets, monkeypatch
) -> None:
    calls = []

    def counted(*args):
        calls.append(args)
        return read_states(*args)

    monkeypatch.setattr(probe_task, "read_states", counted)
    task = ProbeTask()
    assert task.seeds_together
    for data in sets.values():
        folds = task.folds(data, OPTIONS)
        assert sorted(i for fold in folds for i in fold.test) == list(range(len(data.items)))
        for fold in folds:
            for seed in range(2):
                shares: list[float] = []
                outcome = task.train_and_predict(
                    checkpoint, data, fold, OPTIONS, Conditions(seed, progress=shares.append)
                )
                assert [row.item for row in outcome.rows] == [data.items[i].id for i in fold.test]
                assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)
        rows = np.array([row.row for row in outcome.rows])
        for name, metric in task.metrics(data).items():
            assert 0 <= metric(rows) <= 100 and 0 <= constant_answer(data)[name] <= 100
        assert outcome.facts["reads_without_a_state"] == 0
        json.dumps(outcome.facts)
    assert len(calls) == len(sets)


def test_the_same_seed_gives_the_same_answers_and_another_does_not(checkpoint, sets) -> None:
    data = sets["mentions, tiny"]
    fold = ProbeTask().folds(data, OPTIONS)[0]

    def run(seed: int):
        outcome = ProbeTask().train_and_predict(checkpoint, data, fold, OPTIONS, Conditions(seed))
        return outcome.rows, outcome.facts

    assert run(1) == run(1)
    assert run(1)[1]["loss"] != run(2)[1]["loss"]


def test_states_are_the_encoders_at_the_places_that_are_read(checkpoint, sets) -> None:
    tokenizer, encoder = tiny_documents.tokenizer(), load_model(AutoModel, checkpoint, 0).eval()
    for name in ("coreference, tiny", "length, tiny", "coreference, GAP"):
        items = sets[name].items
        states, missing = read_states(checkpoint, items, OPTIONS, Conditions(0))
        assert states.shape == (len(items), len(items[0].reads), 64) and missing == 0
        for item, own in list(zip(items, states, strict=True))[::5]:
            encoded = tokenizer(item.text, return_tensors="pt", return_offsets_mapping=True)
            offsets = encoded.pop("offset_mapping")[0].tolist()
            with torch.inference_mode():
                every = encoder(**encoded).last_hidden_state[0]
            for read, state in zip(item.reads, own, strict=True):
                place = next(i for i, (a, b) in enumerate(offsets) if a <= read < b)
                torch.testing.assert_close(state, every[place], rtol=1e-4, atol=1e-5)


def test_layer_0_are_the_embeddings_and_an_encoder_has_no_more_than_its_layers(checkpoint, sets) -> None:
    items = sets["mentions, tiny"].items[:3]
    options = dataclasses.replace(OPTIONS, layer=0)
    embedded, _ = read_states(checkpoint, items, options, Conditions(0))
    last, _ = read_states(checkpoint, items, OPTIONS, Conditions(0))
    also, _ = read_states(checkpoint, items, dataclasses.replace(OPTIONS, layer=1), Conditions(0))
    assert torch.equal(last, also) and not torch.equal(last, embedded)
    with pytest.raises(EvaluationError, match="--layer is 2, but the encoder in .* has the layers 1 to 1"):
        read_states(checkpoint, items, dataclasses.replace(OPTIONS, layer=2), Conditions(0))


def test_what_a_row_has_no_room_or_token_for_reads_zeros(checkpoint) -> None:
    text = " ".join(["Anna"] * 10 + ["\u200b"] + ["boat"] * 30)
    near, far = text.index("\u200b"), len(text) - 1
    items = [Item("a", "c", text, (0, near), (0,)), Item("b", "c", text, (2, 5), (1,))]
    states, missing = read_states(checkpoint, items, OPTIONS, Conditions(0))
    assert missing == 1 and not states[0, 1].any() and states[0, 0].any()
    every = Item("c", "c", text, tuple(range(0, far, 3)), (0,))
    states, missing = read_states(
        checkpoint, [every], dataclasses.replace(OPTIONS, max_length=16), Conditions(0)
    )
    assert missing == sum(not state.any() for state in states[0]) > 20


def test_a_classifier_learns_what_states_tell() -> None:
    torch.manual_seed(0)
    states = torch.randn(600, 2, 8) * 40 + 7
    states[:, :, 3] = 5.0  # constant
    options = ProbeOptions(epochs=15.0, batch_size=32, learning_rate=1e-2, head_dropout=0.0)

    def right(answers: torch.Tensor, pairs: bool, several: bool, classes: int, **kind: int) -> float:
        features = features_of(states, pairs)
        scores, _ = train_and_score(
            features[:400],
            answers[:400],
            features[400:],
            classes,
            several,
            dataclasses.replace(options, **kind),
            0,
            lambda share: None,
        )
        found = (scores > 0).float() if several else scores.argmax(1)
        return float((found == answers[400:]).float().mean())

    linear = (states[:, 0, 0] > states[:, 1, 1]).long()
    assert right(linear, False, False, 2, head_size=0) > 0.85
    same = ((states[:, 0, 0] > 7) == (states[:, 1, 0] > 7)).long()
    assert right(same, True, False, 2) > 0.85
    assert right((states[:, 0, :4] > 7).float()[:, :3], False, True, 3) > 0.9


def test_of_two_names_at_most_one_is_right_and_one_classifier_scores_both(sets, monkeypatch) -> None:
    """The states say of each name by itself whether it is the right one, whichever comes first."""
    draw = np.random.default_rng(0)
    answers = draw.integers(3, size=300)
    right = np.stack([answers == 0, answers == 1], axis=1)
    states = torch.tensor(draw.normal(size=(300, 2, 4, 5)), dtype=torch.float32)
    states[:, :, 0, 0] = torch.tensor(right * 2.0 - 1.0)
    states[200:, 0], states[200:, 1] = states[200:, 1].clone(), states[200:, 0].clone()
    answers[200:] = np.array([1, 0, 2])[answers[200:]]
    items = tuple(
        Item(str(n), str(n), "t", (0,) * 8, (int(answer),), "feminine") for n, answer in enumerate(answers)
    )
    data = dataclasses.replace(sets["coreference, GAP"], items=items)
    monkeypatch.setattr(probe_task, "read_states", lambda *args: (states.flatten(1, 2), 0))
    options = dataclasses.replace(OPTIONS, epochs=30.0, batch_size=32)
    fold = Fold("f", tuple(range(200)), tuple(range(200, 300)))
    checkpoint = Checkpoint("c", Path("c"), "digest")
    outcome = ProbeTask().train_and_predict(checkpoint, data, fold, options, Conditions(0))
    rows = np.array([row.row for row in outcome.rows])
    assert data.metrics()["accuracy"](rows) > 85 and data.metrics()["F1 feminine"](rows) > 85
    assert outcome.facts["features"] == 5 * (4 + 2)


def constant_answer(data) -> dict[str, float]:
    found = ProbeTask().constant_scores(data, range(data.split, len(data.items)))
    return {name: round(score, 2) for name, score in found.items()}


def test_the_constant_answer_is_the_best_of_all(sets) -> None:
    items = tuple(Item(str(n), "c", "t", (0,), (int(n < 3),)) for n in range(10))
    data = dataclasses.replace(sets["mentions, tiny"], items=items, split=0)
    assert constant_answer(data) == {"F1": round(200 * 3 / 13, 2), "accuracy": 70.0}
    items = tuple(Item(str(n), "c", "t", (0,), (n % 3 % 2,), "feminine") for n in range(6))  # A B A A B A
    data = dataclasses.replace(sets["coreference, GAP"], items=items)
    assert constant_answer(data)["accuracy"] == constant_answer(data)["F1 feminine"] == round(100 * 4 / 6, 2)
    items = tuple(Item(str(n), "c", "t", (0,), (0, 1) if n else (2,)) for n in range(4))
    data = dataclasses.replace(sets["words, tiny"], items=items)
    assert constant_answer(data) == {"words found": round(100 * 6 / 7, 2)}


def test_one_probe_alone_and_data_without_it(folder, tmp_path) -> None:
    def names(probe: str, path=folder) -> list[str]:
        options = dataclasses.replace(OPTIONS, probe=probe)
        return [data.name for data in ProbeTask().load(path, options)]

    assert names("coreference") == ["coreference, tiny", "coreference, GAP"]
    assert names("words") == ["words, tiny"]
    assert names("relations", folder / "TRAIN_FILE.TXT") == ["relations, SemEval-2010-8"]
    with pytest.raises(EvaluationError, match=r"--probe is length, but .* has nothing to ask it on"):
        names("length", folder / "TRAIN_FILE.TXT")
    with pytest.raises(DataError, match="holds nothing to probe on"):
        names("all", tmp_path)
    with pytest.raises(DataError, match="there is no such file or folder"):
        names("all", tmp_path / "missing")
    with pytest.raises(DataError, match=r"numbers\.tsv:1: the columns are"):
        names("all", folder / "numbers.tsv")
    for name in ("a.tsv", "b.tsv"):
        (tmp_path / name).write_text(tiny_documents.gap())
    with pytest.raises(DataError, match=r"b\.tsv: the example 'development-1' is in another file too"):
        names("all", tmp_path)


def test_a_split_stays_one_and_max_items_holds_for_both_parts(tmp_path) -> None:
    tiny_documents.write_conll(tmp_path / "d" / "train", ["lamp", "farm", "line"])
    tiny_documents.write_conll(tmp_path / "d" / "dev", ["song"])
    for data in ProbeTask().load(tmp_path / "d", dataclasses.replace(OPTIONS, max_items=8)):
        (fold,) = ProbeTask().folds(data, OPTIONS)
        assert len(fold.train) <= 8 and 0 < len(fold.test) <= 8
        assert {data.items[i].cluster for i in fold.test} == {"song"}
        assert {data.items[i].cluster for i in fold.train} <= {"lamp", "farm", "line"}


def test_a_split_whose_training_part_has_nothing_to_ask_is_not_divided_anew(tmp_path) -> None:
    (tmp_path / "d" / "train").mkdir(parents=True)
    (tmp_path / "d" / "train" / "a.conll").write_text(tiny_documents.conll("a", ["The farm sells plums ."]))
    tiny_documents.write_conll(tmp_path / "d" / "dev", ["song", "line"])
    with pytest.raises(EvaluationError, match="--probe is mentions, but .* has nothing to ask it on"):
        ProbeTask().load(tmp_path / "d", dataclasses.replace(OPTIONS, probe="mentions"))


def test_the_command_compares_checkpoints_on_every_probe(checkpoint, folder, tmp_path, capsys) -> None:
    from spanbert_ext.evaluate import evaluate_cli

    other = tiny_tasks.save_checkpoint(tmp_path / "other", tiny_documents.tokenizer(), seed=1)
    models = [f"a={checkpoint.folder}", f"b={other.folder}"]
    options = ["--seeds", "2", "--folds", "2", "--epochs", "1", "--max-length", "96", "--no-progress"]
    command = ["probe", *models, "--data", str(folder), "--output", str(tmp_path / "out"), *options]
    assert evaluate_cli.main(command) == 0
    found = capsys.readouterr().out
    assert "48 jobs of 2 fine-tuning seeds" in found
    for name in ("mentions, tiny", "coreference, GAP", "relations, SemEval-2010-8"):
        assert f"\n{name}: " in found
    assert found.count("\na constant answer ") == 6
    assert evaluate_cli.main(command) == 0 and "48 done before" in capsys.readouterr().out
