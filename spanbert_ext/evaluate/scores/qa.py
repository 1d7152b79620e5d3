"""Extractive QA: exact match and F1 by SQuAD's rules, and SQuAD 2.0's for questions without an answer."""

from __future__ import annotations

from collections.abc import Sequence

from spanbert_ext.evaluate.scores.metric import Metric


def score_answer(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1, 0 ... 1, of a predicted text against the best fitting answer. No answers: both are 1 for the
    empty prediction and 0 for any other."""
    raise NotImplementedError


def qa_row(span: str, prediction: str, answers: Sequence[str]) -> tuple[float, ...]:
    """The row of a question: `span` is the best text of the context whatever the null score says, `prediction` that or
    "" where the system answers that there is none."""
    raise NotImplementedError


# By name: "EM" and "F1" of the best span over answerable questions; "EM with no-answer" and "F1 with no-answer" of
# the predictions over all questions.
QA_METRICS: dict[str, Metric] = {}
