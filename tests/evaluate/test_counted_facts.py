# SPDX-License-Identifier: Apache-2.0
"""Real data, where a folder of it is given by SPANBERT_EXT_EVALUATION_DATA: every reader finds what others counted.

The folder has `qa/`, `coref/`, `relation/` and `glue/`, with the files named below, packed or not."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from spanbert_ext.evaluate.data.conll import CorefDocument, read_conll, without_singletons
from spanbert_ext.evaluate.data.folds import group_folds
from spanbert_ext.evaluate.data.gap import read_gap
from spanbert_ext.evaluate.data.glue import GLUE_TASKS, read_glue
from spanbert_ext.evaluate.data.qamr import read_qamr
from spanbert_ext.evaluate.data.relations import SEMEVAL_LABELS, read_marked, read_semeval
from spanbert_ext.evaluate.data.sources import find_file
from spanbert_ext.evaluate.data.squad import read_squad

VARIABLE = "SPANBERT_EXT_EVALUATION_DATA"
pytestmark = pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no folder of real data")


def real(folder: str, stem: str, suffix: str) -> Path:
    path = Path(os.environ.get(VARIABLE, "")) / folder
    found = find_file(path, [stem], [suffix]) if path.is_dir() else None
    if found is None:
        pytest.skip(f"there is no {path / stem}{suffix}")
    return found


def test_half_of_squad_2() -> None:
    questions = read_squad(real("qa", "squad2_half_dev", ".json"))
    assert len(questions) == 6078 and sum(question.answerable for question in questions) == 2910
    assert len({question.article for question in questions}) == 16
    words = [len(context.split()) for context in {question.context for question in questions}]
    assert max(words) == 629 and round(sum(words) / len(words)) == 132
    sizes = Counter(group_folds([question.article for question in questions], 4))
    assert max(sizes.values()) < 1.1 * min(sizes.values())


def test_policyqa() -> None:
    questions = read_squad(real("qa", "policyqa_dev", ".json"))
    assert (len(questions), len({question.article for question in questions})) == (3809, 20)
    assert len({question.context for question in questions}) == 574


def test_qamr() -> None:
    questions = read_qamr(real("qa", "qamr_dev", ".tsv"), real("qa", "wiki-sentences", ".tsv"))
    assert (len(questions), len({question.article for question in questions})) == (18_908, 499)


def facts(documents: list[CorefDocument]) -> tuple[int, int, int]:
    """Documents, words, mentions."""
    mentions = sum(len(cluster) for document in documents for cluster in document.clusters)
    return len(documents), sum(len(document.words) for document in documents), mentions


def test_ontogum() -> None:
    documents = read_conll(real("coref", "ontogum", ".tar"))
    assert facts(documents) == (207, 205_528, 27_131)
    lengths = [
        last - first + 1 for document in documents for cluster in document.clusters for first, last in cluster
    ]
    assert round(sum(lengths) / len(lengths), 1) == 2.1
    assert round(100 * sum(length <= 10 for length in lengths) / len(lengths)) == 98
    assert len({document.genre for document in documents}) == 15


def test_litbank() -> None:
    documents = read_conll(real("coref", "litbank", ".tar"))
    assert len(documents) == 80
    clusters = [len(cluster) for document in documents for cluster in document.clusters]
    assert round(100 * clusters.count(1) / len(clusters)) == 72
    kept = [len(cluster) for document in documents for cluster in without_singletons(document).clusters]
    assert len(kept) == len(clusters) - clusters.count(1) and min(kept) == 2


@pytest.mark.parametrize(
    ("part", "labels"),
    [
        ("development", {"A": 874, "B": 925, "neither": 201}),
        ("validation", {"A": 187, "B": 205, "neither": 62}),
    ],
)
def test_gap(part: str, labels: dict[str, int]) -> None:
    examples = read_gap(real("coref/gap", f"gap-{part}", ".tsv"))
    assert Counter(example.label for example in examples) == labels
    assert len({len(examples) - 2 * n for n in Counter(example.gender for example in examples).values()}) == 1


def test_semeval() -> None:
    relations = read_semeval(real("relation/semeval2010_task8", "TRAIN_FILE", ".txt"))
    labels = Counter(relation.label for relation in relations)
    assert len(relations) == 8000 and labels["Other"] == 1410 and labels.keys() == set(SEMEVAL_LABELS)


@pytest.mark.parametrize(
    ("name", "train", "dev", "labels"), [("chemprot", 4169, 2427, 13), ("scierc", 3219, 455, 7)]
)
def test_marked_spans(name: str, train: int, dev: int, labels: int) -> None:
    examples = read_marked(real(f"relation/{name}", "train", ".txt"))
    known = sorted({example.label for example in examples})
    assert len(examples) == train and len(known) == labels
    assert len(read_marked(real(f"relation/{name}", "dev", ".txt"), labels=known)) == dev


@pytest.mark.parametrize(
    ("task", "part", "count"),
    [
        ("cola", "train", 8551),
        ("cola", "dev", 1043),
        ("sst-2", "train", 67_349),
        ("sst-2", "dev", 872),
        ("mrpc", "train", 3668),
        ("mrpc", "dev", 408),
        ("sts-b", "train", 5749),
        ("sts-b", "dev", 1500),
        ("rte", "train", 2490),
        ("rte", "dev", 277),
        ("qnli", "dev", 5463),
    ],
)
def test_glue(task: str, part: str, count: int) -> None:
    assert len(read_glue(task, real(f"glue/{GLUE_TASKS[task].folder}", part, ".tsv"))) == count
