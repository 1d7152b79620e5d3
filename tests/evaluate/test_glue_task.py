# SPDX-License-Identifier: Apache-2.0
"""GLUE from files to rows: classes, pairs, and scores that are numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("transformers")

import tiny_tasks
from tiny_models import one_thread  # noqa: F401

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.tasks.form import Conditions, Fold
from spanbert_ext.evaluate.tasks.glue.options import GlueOptions
from spanbert_ext.evaluate.tasks.glue.task import GlueBenchmark

OPTIONS = GlueOptions(epochs=40, batch_size=8, learning_rate=4e-3, max_length=32, folds=2)
COLA = [
    ("The keeper lit the lamp.", 1),
    ("Lit the keeper lamp the.", 0),
    ("Trains carried slate to Dunmore.", 1),
    ("Carried Dunmore slate to trains to.", 0),
    ("Joan planted a pear tree.", 1),
    ("Planted a Joan pear tree a.", 0),
]
RTE = [
    ("Tom Hale kept the light until 1901.", "Tom Hale kept the light.", "entailment"),
    ("Tom Hale kept the light until 1901.", "Tom Hale built the light.", "not_entailment"),
    ("The railway carried milk from 1920.", "Milk was carried.", "entailment"),
    ("The railway carried milk from 1920.", "Coal was carried.", "not_entailment"),
]
STS = [
    ("A dog barks.", "A dog is barking.", "5.000"),
    ("A dog barks.", "A cat sleeps.", "1.200"),
    ("Plums are red.", "Pears are yellow.", "2.000"),
    ("Plums are red.", "The plums are red.", "4.800"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """CoLA with a split, RTE with a development file alone, STS-B with a split: the lines that GLUE's files have."""
    root = tmp_path_factory.mktemp("glue")
    for name in ("CoLA", "RTE", "STS-B"):
        (root / name).mkdir()
    lines = [f"gj04\t{label}\t{'' if label else '*'}\t{text}" for text, label in COLA]
    (root / "CoLA" / "train.tsv").write_text("\n".join(lines) + "\n")
    (root / "CoLA" / "dev.tsv").write_text("\n".join(lines[:4]) + "\n")
    head = "index\tsentence1\tsentence2\tlabel"
    rows = [f"{i}\t{a}\t{b}\t{label}" for i, (a, b, label) in enumerate(RTE)]
    (root / "RTE" / "dev.tsv").write_text("\n".join([head, *rows]) + "\n")
    head = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
    rows = [f"{i}\tg\tf\t2012\t{i}\tn\tn\t{a}\t{b}\t{score}" for i, (a, b, score) in enumerate(STS)]
    for name in ("train", "dev"):
        (root / "STS-B" / f"{name}.tsv").write_text("\n".join([head, *rows]) + "\n")
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    texts = [text for row in (*COLA, *RTE, *STS) for text in row[:2] if isinstance(text, str)]
    return tiny_tasks.save_checkpoint(
        tmp_path_factory.mktemp("models") / "tiny", tiny_tasks.tokenizer_of(texts)
    )


def test_a_folder_of_tasks_is_a_data_set_each(folder) -> None:
    cola, rte, sts = GlueBenchmark().load(folder, OPTIONS)
    assert [data.name for data in (cola, rte, sts)] == ["CoLA", "RTE", "STS-B"]
    assert [data.split for data in (cola, rte, sts)] == [6, 0, 4]
    assert [list(GlueBenchmark().metrics(data)) for data in (cola, rte, sts)] == [
        ["Matthews"],
        ["accuracy"],
        ["Spearman", "Pearson"],
    ]
    (fold,) = GlueBenchmark().folds(cola, OPTIONS)
    assert (fold.name, fold.train, fold.test) == ("dev", tuple(range(6)), tuple(range(6, 10)))
    folds = GlueBenchmark().folds(rte, OPTIONS)
    assert [len(fold.test) for fold in folds] == [2, 2]
    (alone,) = GlueBenchmark().load(folder / "RTE", OPTIONS)
    assert alone.examples == rte.examples


@pytest.mark.parametrize("number, name", [(0, "CoLA"), (1, "RTE"), (2, "STS-B")])
def test_a_tiny_model_learns_what_it_is_trained_on(folder, checkpoint, number: int, name: str) -> None:
    data = GlueBenchmark().load(folder, OPTIONS)[number]
    train = tuple(range(data.split or len(data.examples)))
    fold = Fold("all", train, train)

    options = dataclasses.replace(OPTIONS, epochs=100 if name == "STS-B" else 40)
    outcome = GlueBenchmark().train_and_predict(checkpoint, data, fold, options, Conditions(0))
    rows = np.array([row.row for row in outcome.rows])
    for metric, score in GlueBenchmark().metrics(data).items():
        assert score(rows) > 90, metric
    assert [row.item for row in outcome.rows] == [data.examples[i].id for i in train]
    expected = {"CoLA": "1", "RTE": "entailment", "STS-B": pytest.approx(5.0, abs=1.0)}[name]
    assert outcome.predictions[data.examples[0].id] == expected


def test_the_same_seed_gives_the_same_answers(folder, checkpoint) -> None:
    data = GlueBenchmark().load(folder / "STS-B", OPTIONS)[0]
    options = dataclasses.replace(OPTIONS, epochs=2)
    fold = GlueBenchmark().folds(data, options)[0]

    def run(seed: int):
        return GlueBenchmark().train_and_predict(checkpoint, data, fold, options, Conditions(seed)).rows

    assert run(1) == run(1) != run(2)


def test_epochs_are_the_papers_where_none_are_given(folder, checkpoint, monkeypatch) -> None:
    epochs = []
    monkeypatch.setattr(
        "spanbert_ext.evaluate.tasks.glue.task.fine_tune",
        lambda *given, **named: epochs.append(named["epochs"]) or {},
    )
    for given in (None, 2.5):
        for data in GlueBenchmark().load(folder, OPTIONS):
            options = dataclasses.replace(OPTIONS, epochs=given)
            GlueBenchmark().train_and_predict(
                checkpoint, data, Fold("one", (0,), (1,)), options, Conditions(0)
            )
    assert epochs == [4, 10, 10, 2.5, 2.5, 2.5]


def test_wrong_folders_are_named(tmp_path) -> None:
    (tmp_path / "train.tsv").touch()
    with pytest.raises(DataError, match=r"train.tsv: is a file, expected a folder of GLUE's files"):
        GlueBenchmark().load(tmp_path / "train.tsv", OPTIONS)
    with pytest.raises(DataError, match="is not there, expected a folder of GLUE's files"):
        GlueBenchmark().load(tmp_path / "nothing", OPTIONS)
    with pytest.raises(DataError, match="is no folder of a task of GLUE and holds none"):
        GlueBenchmark().load(tmp_path, OPTIONS)
    (tmp_path / "MRPC").mkdir()
    with pytest.raises(DataError, match="holds neither train.tsv nor dev.tsv"):
        GlueBenchmark().load(tmp_path, OPTIONS)
