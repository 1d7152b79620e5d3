"""Metrics as functions of rows, which a bootstrap can also ask of resampled rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np


class Metric(Protocol):
    """`metric(rows)` scores rows [N, C] (float64), one an item, in percent: higher is better, NaN where the rows do
    not define it."""

    name: str

    def __call__(self, rows: np.ndarray) -> float: ...

    def resampler(
        self, rows: np.ndarray, clusters: np.ndarray, count: int
    ) -> Callable[[np.ndarray], np.ndarray]:
        """A function from weights [B, count], how often each cluster is drawn, to the metric [B] of the rows so drawn.

        `clusters` [N] holds each row's cluster, 0 ... count - 1."""
        ...
