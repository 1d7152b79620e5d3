# SPDX-License-Identifier: Apache-2.0
"""Extractive QA: exact match and F1 by SQuAD's rules, and SQuAD 2.0's for questions without an answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torchmetrics.functional.text import squad

from spanbert_ext.evaluate.scores.metric import Metric, SumMetric, one_each, ratio


def score_answer(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1, 0 ... 1, of a predicted text against the best fitting answer. No answers: both are 1 for the
    empty prediction and 0 for any other."""
    texts = list(answers) or [""]
    predicted = [{"prediction_text": prediction, "id": ""}]
    scores = squad(predicted, [{"answers": {"text": texts, "answer_start": [0] * len(texts)}, "id": ""}])
    return float(scores["exact_match"]) / 100, float(scores["f1"]) / 100


def qa_row(span: str, prediction: str, answers: Sequence[str]) -> tuple[float, ...]:
    """The row of a question: answerable or not; exact match and F1 of `span`, the best text of the context whatever
    the null score says (0 where there is no answer); exact match and F1 of `prediction`, which is `span`, or "" where
    the system answers that there is none."""
    of_span = score_answer(span, answers) if answers else (0.0, 0.0)
    of_prediction = of_span if answers and prediction == span else score_answer(prediction, answers)
    return (float(bool(answers)), *of_span, *of_prediction)


def _mean(name: str, column: int, answerable_alone: bool) -> Metric:
    def sizes(rows: np.ndarray) -> np.ndarray:
        return rows[:, 0] if answerable_alone else one_each(rows)

    def features(rows: np.ndarray) -> np.ndarray:
        return np.stack([sizes(rows) * rows[:, column], sizes(rows)], axis=1)

    return SumMetric(
        name, features, lambda sums: ratio(sums[..., 0], sums[..., 1], empty=np.nan), sizes=sizes
    )


# Over answerable questions, of the best span; and over all questions, of the predictions.
QA_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _mean("F1", 2, answerable_alone=True),
        _mean("EM", 1, answerable_alone=True),
        _mean("F1 with no-answer", 4, answerable_alone=False),
        _mean("EM with no-answer", 3, answerable_alone=False),
    )
}
