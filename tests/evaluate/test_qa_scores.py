# SPDX-License-Identifier: Apache-2.0
"""Exact match and F1 of question answering: torchmetrics' over a whole set, SQuAD 2.0's with questions unanswered."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torchmetrics")

from torchmetrics.text import SQuAD

from spanbert_ext.evaluate.scores.qa import QA_METRICS, qa_row, score_answer

QUESTIONS = [  # what is predicted, the answers
    ("the 10th century", ["10th century", "in the 10th and 11th centuries"]),
    ("Rollo", ["Rollo"]),
    ("Denmark and Norway", ["Denmark, Iceland and Norway", "Denmark"]),
    ("a", ["the"]),  # nothing is left of either without articles
    ("France", ["Spain"]),
    ("U.S.", ["us", "the U. S."]),
]


def test_scores_of_a_set_are_those_of_torchmetrics() -> None:
    metric = SQuAD()
    for number, (prediction, answers) in enumerate(QUESTIONS):
        metric.update(
            {"prediction_text": prediction, "id": str(number)},
            {"answers": {"text": answers, "answer_start": [0] * len(answers)}, "id": str(number)},
        )
    expected = metric.compute()
    rows = np.array([qa_row(prediction, prediction, answers) for prediction, answers in QUESTIONS])
    assert QA_METRICS["F1"](rows) == pytest.approx(float(expected["f1"]), abs=1e-4)
    assert QA_METRICS["EM"](rows) == pytest.approx(float(expected["exact_match"]), abs=1e-4)
    assert QA_METRICS["F1 with no-answer"](rows) == pytest.approx(float(expected["f1"]), abs=1e-4)


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("the Normans", ["Normans", "Norman"], (1, 1)),
        ("Norman people", ["the Norman people of France"], (0, 2 / 3)),  # 2 of 2, and 2 of 4
        ("x x", ["x"], (0, 2 / 3)),  # a word counts as often as it occurs
        ("", ["Normans"], (0, 0)),
        ("Normans", [], (0, 0)),
        ("", [], (1, 1)),
    ],
)
def test_one_answer(prediction: str, answers: list[str], expected: tuple[float, float]) -> None:
    assert score_answer(prediction, answers) == pytest.approx(expected, abs=1e-6)


def test_questions_without_an_answer_count_where_all_questions_do() -> None:
    rows = np.array(
        [
            qa_row("Normans", "Normans", ["the Normans"]),  # right
            qa_row("Normans", "", ["the Normans"]),  # right span, but it says that there is no answer
            qa_row("Normans", "", []),  # rightly no answer
            qa_row("Normans", "Normans", []),  # an answer where there is none
        ]
    )
    assert QA_METRICS["EM"](rows) == QA_METRICS["F1"](rows) == 100
    assert QA_METRICS["EM with no-answer"](rows) == QA_METRICS["F1 with no-answer"](rows) == 50
    assert np.isnan(QA_METRICS["F1"](rows[2:]))
    weights = np.array([[1, 1, 1, 1], [0, 2, 0, 1], [0, 0, 1, 1]], dtype=float)
    clusters = np.arange(4)
    drawn = QA_METRICS["F1"].resampler(rows, clusters, 4)(weights)
    np.testing.assert_allclose(drawn, [100, 100, np.nan])
    drawn = QA_METRICS["EM with no-answer"].resampler(rows, clusters, 4)(weights)
    np.testing.assert_allclose(drawn, [50, 0, 50])
