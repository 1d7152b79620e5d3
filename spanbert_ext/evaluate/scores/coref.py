"""Coreference: MUC, B-cubed, CEAF-e and their mean, the CoNLL score."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from spanbert_ext.evaluate.scores.metric import Metric


def coref_row(
    gold: Iterable[Iterable[Hashable]], predicted: Iterable[Iterable[Hashable]]
) -> tuple[float, ...]:
    """The row of a document: numerator and denominator of recall and of precision of MUC, B-cubed and CEAF-e.

    Clusters are collections of mentions; no mention is in two clusters of one side. Raises ValueError where one is."""
    raise NotImplementedError


# By name: "CoNLL F1", "MUC F1", "B3 F1", "CEAFe F1": ratios of sums over documents, as the official scorer's totals.
COREF_METRICS: dict[str, Metric] = {}
