# SPDX-License-Identifier: Apache-2.0
"""What who gives the same answer to every item reaches, task by task; by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

import tiny_documents
import tiny_tasks

from spanbert_ext.evaluate.tasks.registry import TASKS


def write(task: str, folder: Path) -> Path:
    if task == "qa":
        return tiny_tasks.write_squad(folder / "tiny_dev.json")
    if task == "coref":
        return tiny_documents.write_conll(folder / "documents")
    if task == "relation":
        (folder / "TRAIN_FILE.TXT").write_text(tiny_documents.semeval())
        return folder / "TRAIN_FILE.TXT"
    (folder / "MRPC").mkdir()
    lines = [f"{label}\t{i}\t{i}\tone\tother" for i, label in enumerate((1, 1, 1, 0))]
    head = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    (folder / "MRPC" / "dev.tsv").write_text("\n".join([head, *lines]) + "\n")
    return folder / "MRPC"


@pytest.mark.parametrize(
    "task, expected",
    [
        # three of 13 questions have no answer
        ("qa", {"F1": 0, "EM": 0, "F1 with no-answer": 300 / 13, "EM with no-answer": 300 / 13}),
        ("coref", {"CoNLL F1": 0, "MUC F1": 0, "B3 F1": 0, "CEAFe F1": 0}),
        # four of each of three relations, two of them directions of one, and four of Other
        ("relation", {"micro F1": 100 * 2 * 4 / (16 + 12), "official macro F1": 100 * 2 * 4 / (16 + 4) / 2}),
        ("glue", {"F1": 100 * 2 * 3 / (4 + 3), "accuracy": 75}),
    ],
)
def test_the_best_constant_answer_by_each_metric(tmp_path, task: str, expected: dict[str, float]) -> None:
    entry = TASKS[task]
    made, options = entry.make(), entry.options(folds=2)
    (data,) = made.load(write(task, tmp_path), options)
    folds = made.folds(data, options)
    items = [index for fold in folds for index in fold.test]
    assert made.constant_scores(data, items) == pytest.approx(expected)
    for rows in made.constant_answers(data, folds[1].test):
        assert len(rows) == len({row.item for row in rows}) == len(folds[1].test)
    clusters = [{row.cluster for row in next(made.constant_answers(data, fold.test))} for fold in folds]
    assert clusters[0] and clusters[1] and not clusters[0] & clusters[1]
