# SPDX-License-Identifier: Apache-2.0
"""Coreference: MUC, B-cubed, CEAF-e and their mean, the CoNLL score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from spanbert_ext.evaluate.scores.metric import Metric, SumMetric, ratio

Clusters = Sequence[frozenset]


def _clusters(clusters: Iterable[Iterable[Hashable]], side: str) -> tuple[Clusters, dict[Hashable, int]]:
    """The clusters that have mentions, and which one each mention is in."""
    found = [frozenset(cluster) for cluster in clusters]
    found = [cluster for cluster in found if cluster]
    cluster_of: dict[Hashable, int] = {}
    for number, cluster in enumerate(found):
        for mention in cluster:
            if mention in cluster_of:
                raise ValueError(f"{side}: the mention {mention!r} is in two clusters; expected one")
            cluster_of[mention] = number
    return found, cluster_of


def _muc(clusters: Clusters, other: Mapping[Hashable, int]) -> tuple[float, float]:
    """Links of `clusters` that the other side has too, and all: a cluster of n mentions has n - 1, and one fewer is
    right for every part more that the other side cuts it into. Mentions that the other side lacks are parts."""
    right = total = 0
    for cluster in clusters:
        parts = {other[mention] if mention in other else (mention,) for mention in cluster}
        right += len(cluster) - len(parts)
        total += len(cluster) - 1
    return right, total


def _b_cubed(clusters: Clusters, other: Mapping[Hashable, int]) -> tuple[float, float]:
    """Sum over mentions of the share of their cluster that the other side has in one with them, and their number."""
    right = total = 0.0
    for cluster in clusters:
        shared = Counter(other[mention] for mention in cluster if mention in other)
        right += sum(count * count for count in shared.values()) / len(cluster)
        total += len(cluster)
    return right, total


def _ceaf_e(gold: Clusters, predicted: Clusters) -> float:
    """The similarity 2 |G & P| / (|G| + |P|) of clusters, summed over the best pairing of them."""
    if not gold or not predicted:
        return 0.0
    similarity = np.array([[2 * len(g & p) / (len(g) + len(p)) for p in predicted] for g in gold])
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    return float(similarity[rows, columns].sum())


def coref_row(
    gold: Iterable[Iterable[Hashable]], predicted: Iterable[Iterable[Hashable]]
) -> tuple[float, ...]:
    """The row of a document: numerator and denominator of recall, then of precision, of MUC, B-cubed and CEAF-e.

    Clusters are collections of mentions. Raises ValueError where a mention is in two clusters of one side."""
    gold_clusters, gold_of = _clusters(gold, "gold")
    predicted_clusters, predicted_of = _clusters(predicted, "predicted")
    similarity = _ceaf_e(gold_clusters, predicted_clusters)
    return (
        *_muc(gold_clusters, predicted_of),
        *_muc(predicted_clusters, gold_of),
        *_b_cubed(gold_clusters, predicted_of),
        *_b_cubed(predicted_clusters, gold_of),
        *(similarity, float(len(gold_clusters))),
        *(similarity, float(len(predicted_clusters))),
    )


def _f1(sums: np.ndarray, score: int) -> np.ndarray:
    recall = ratio(sums[..., 4 * score], sums[..., 4 * score + 1])
    precision = ratio(sums[..., 4 * score + 2], sums[..., 4 * score + 3])
    return ratio(2 * precision * recall, precision + recall)


def _mentions(rows: np.ndarray) -> np.ndarray:
    """How many mentions a document has; 1 where it has none, whose predictions still cost precision."""
    return np.maximum(rows[:, 5], 1)


def _metric(name: str, of_sums: Callable[[np.ndarray], np.ndarray]) -> Metric:
    """A ratio of sums over documents, which the official scorer's totals are."""
    return SumMetric(name, lambda rows: rows, of_sums, sizes=_mentions)


COREF_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _metric("CoNLL F1", lambda sums: sum(_f1(sums, score) for score in range(3)) / 3),
        _metric("MUC F1", lambda sums: _f1(sums, 0)),
        _metric("B3 F1", lambda sums: _f1(sums, 1)),
        _metric("CEAFe F1", lambda sums: _f1(sums, 2)),
    )
}
