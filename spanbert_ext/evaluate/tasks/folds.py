# SPDX-License-Identifier: Apache-2.0
"""How a data set is divided: by whole clusters, the same way whatever the seed and the checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from spanbert_ext.evaluate.data.folds import group_folds
from spanbert_ext.evaluate.tasks.form import EvaluationError, Fold


def cross_validation(clusters: Sequence[str], count: int, what: str) -> list[Fold]:
    """`count` folds, each of which tests whole clusters that the others train on, of about as many items each.

    clusters: of each item. what: plural noun of clusters. Raises `EvaluationError`."""
    if len(set(clusters)) < count:
        raise EvaluationError(
            f"--folds is {count} but the data has {len(set(clusters))} {what}, and no two folds may share one:"
            " give at most that"
        )
    tested_by = group_folds(clusters, count)
    return [
        Fold(
            f"{number + 1} of {count}",
            train=tuple(index for index, fold in enumerate(tested_by) if fold != number),
            test=tuple(index for index, fold in enumerate(tested_by) if fold == number),
        )
        for number in range(count)
    ]


def hold_out(fold: Fold, clusters: Sequence[str], share: float, most: int) -> Fold:
    """The fold with whole clusters of its training items held out: about `share` of the items, `most` at most where the
    clusters are that small, and at least one cluster where it leaves another to train on."""
    members = {
        name: [fold.train[i] for i in places]
        for name, places in _members([clusters[i] for i in fold.train]).items()
    }
    if len(members) < 2:
        return fold
    wanted = min(share * len(fold.train), most)
    order = sorted(members, key=_hashed)
    chosen: list[int] = []
    for name in order:
        if len(chosen) + len(members[name]) <= wanted:
            chosen += members[name]
    if not chosen:
        chosen = min((members[name] for name in order), key=len)
    held_out = set(chosen)
    return Fold(
        fold.name, tuple(i for i in fold.train if i not in held_out), fold.test, tuple(sorted(held_out))
    )


def at_most(fold: Fold, count: int | None) -> Fold:
    """The fold with `count` of its training items, drawn once and for all."""
    if count is None or len(fold.train) <= count:
        return fold
    chosen = sorted(sorted(fold.train, key=lambda index: _hashed(str(index)))[:count])
    return Fold(fold.name, tuple(chosen), fold.test, fold.held_out)


def _members(clusters: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, name in enumerate(clusters):
        found.setdefault(name, []).append(index)
    return found


def _hashed(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
