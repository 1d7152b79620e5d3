# SPDX-License-Identifier: Apache-2.0
"""GAP's scores: F1 over its two names an example, of all pronouns and of each gender."""

from __future__ import annotations

import numpy as np

from spanbert_ext.evaluate.scores.metric import Metric, SumMetric, f1, ratio

_NAMES = {"A": {"A"}, "B": {"B"}, "neither": set()}


def gap_row(predicted: str, gold: str, gender: str) -> tuple[float, ...]:
    """The row of an example: names ("A", "B" or "neither") rightly predicted, predicted and right, whether the answer
    is right as a whole, and 1 where the pronoun is feminine. Raises ValueError for another name or gender."""
    for side, name in (("predicted", predicted), ("gold", gold)):
        if name not in _NAMES:
            raise ValueError(f"{side} is {name!r}; expected A, B or neither")
    if gender not in ("masculine", "feminine"):
        raise ValueError(f"gender is {gender!r}; expected masculine or feminine")
    found, right = _NAMES[predicted], _NAMES[gold]
    counts = len(found & right), len(found), len(right), predicted == gold, gender == "feminine"
    return tuple(map(float, counts))


def _f1(sums: np.ndarray) -> np.ndarray:
    return f1(*np.moveaxis(sums, -1, 0))


def _f1_of(gender: str) -> Metric:
    feminine = float(gender == "feminine")

    def sizes(rows: np.ndarray) -> np.ndarray:
        return (rows[:, 4] == feminine).astype(float)

    return SumMetric(f"F1 {gender}", lambda rows: rows[:, :3] * sizes(rows)[:, None], _f1, sizes=sizes)


GAP_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        SumMetric("F1", lambda rows: rows[:, :3], _f1),
        _f1_of("feminine"),
        _f1_of("masculine"),
        SumMetric(
            "accuracy",
            lambda rows: np.stack([rows[:, 3], np.ones(len(rows))], axis=1),
            lambda sums: ratio(sums[..., 0], sums[..., 1], empty=np.nan),
        ),
    )
}
