"""Folds for cross-validation, in which items of one group (an article, a document) stay together."""

from __future__ import annotations

from collections.abc import Sequence


def group_folds(groups: Sequence[str], folds: int, *, source: str = "data") -> list[int]:
    """The fold, 0 ... folds - 1, of every item.

    `groups` names each item's group. Groups go, largest first, to the fold that has the fewest items so far; equal ones
    in the order of their names: the same for any order of the items, without a seed. Raises `DataError` (about
    `source`) where there are fewer groups than folds."""
    raise NotImplementedError
