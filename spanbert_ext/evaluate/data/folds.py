# SPDX-License-Identifier: Apache-2.0
"""Folds for cross-validation, in which items of one group (an article, a document) stay together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from spanbert_ext.evaluate.data.errors import DataError


def group_folds(groups: Sequence[str], folds: int, *, source: Path | str = "data") -> list[int]:
    """The fold, 0 ... folds - 1, of every item.

    `groups` names each item's group. Groups go, largest first, to the fold that has the fewest items so far; equal ones
    in the order of their names: the same for any order of the items, without a seed. Raises `DataError` (about
    `source`) where there are fewer groups than folds: one would be empty."""
    if folds < 2:
        raise ValueError(f"folds is {folds}; expected 2 or more")
    sizes = Counter(groups)
    if len(sizes) < folds:
        raise DataError(
            source, f"holds {len(sizes)} groups of items, which cannot fill {folds} folds: one would be empty"
        )
    filled = [0] * folds
    fold_of: dict[str, int] = {}
    for group, size in sorted(sizes.items(), key=lambda entry: (-entry[1], entry[0])):
        fold = filled.index(min(filled))
        fold_of[group] = fold
        filled[fold] += size
    return [fold_of[group] for group in groups]
