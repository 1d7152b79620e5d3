# SPDX-License-Identifier: Apache-2.0
"""From antecedents to clusters."""

from __future__ import annotations

from collections.abc import Sequence

from spanbert_ext.evaluate.data.conll import Mention


def clusters_of(spans: Sequence[Mention], antecedents: Sequence[int]) -> list[list[Mention]]:
    """The clusters that links from mentions to earlier ones make, in the order of their first mentions. A span without
    a link is none. antecedents: of each span a place among them, below its own, or -1."""
    clusters: list[list[Mention]] = []
    cluster_of: dict[int, int] = {}
    for place, antecedent in enumerate(antecedents):
        if antecedent < 0:
            continue
        if antecedent not in cluster_of:
            cluster_of[antecedent] = len(clusters)
            clusters.append([spans[antecedent]])
        cluster_of[place] = cluster_of[antecedent]
        clusters[cluster_of[place]].append(spans[place])
    return sorted(clusters)
