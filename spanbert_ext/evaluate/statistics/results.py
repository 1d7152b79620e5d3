"""Rows of every run, side by side."""

from __future__ import annotations

from collections.abc import Iterable

from spanbert_ext.evaluate.scores.rows import ItemRow


class ResultsError(ValueError):
    """Results that cannot be compared; the message says what is missing or differs."""


class Results:
    """What every run answered to every item.

    A run is a checkpoint (the name of a system: those of several pre-training seeds share it), the pre-training seed
    ("" where there is one checkpoint alone) and a fine-tuning seed; its folds are added one by one."""

    def __init__(self) -> None:
        raise NotImplementedError

    def add(
        self, checkpoint: str, pretraining_seed: str, seed: int, fold: int, rows: Iterable[ItemRow]
    ) -> None:
        """Adds one fold of one run. Raises `ResultsError` for a fold or an item that the run has already, for rows of
        another length, or no rows."""
        raise NotImplementedError

    @property
    def checkpoints(self) -> list[str]:
        """In the order in which they were added."""
        raise NotImplementedError
