# SPDX-License-Identifier: Apache-2.0
"""Holm's procedure: several differences are tested, and the chance that any of them is declared wrongly stays small."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm_p_values(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being tested together: below the level exactly where Holm rejects."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def holm_levels(p_values: Sequence[float], error: float) -> list[float]:
    """The error that the procedure leaves to each test: error / m for the smallest p-value, error / (m - 1) for the
    next, and so on until one is not below it; that one's for all after it. An interval at this level excludes 0
    exactly where Holm rejects."""
    levels, rejecting, level = [0.0] * len(p_values), True, error
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if rejecting:
            level = error / (len(p_values) - rank)
            rejecting = p_values[index] < level
        levels[index] = level
    return levels
