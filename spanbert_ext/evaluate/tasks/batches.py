# SPDX-License-Identifier: Apache-2.0
"""Which rows make which batch: rows of about one length together, in an order that a seed fixes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_SORTED_TOGETHER = 50  # batches: within so many rows, drawn at random, those of one length meet


def training_batches(lengths: Sequence[int], batch_size: int, epochs: float, seed: int) -> list[list[int]]:
    """The batches of a whole run: every row once an epoch, in an order of its own. A part of an epoch is its first
    batches; at least one batch in all."""
    per_epoch = math.ceil(len(lengths) / batch_size)
    wanted = max(1, math.ceil(epochs * per_epoch - 1e-9))
    size = np.asarray(lengths)
    batches: list[list[int]] = []
    epoch = 0
    while len(batches) < wanted:
        draw = np.random.default_rng([seed, epoch])
        order = draw.permutation(len(size))
        pieces = []
        for start in range(0, len(order), _SORTED_TOGETHER * batch_size):
            part = order[start : start + _SORTED_TOGETHER * batch_size]
            part = part[np.argsort(size[part], kind="stable")]
            pieces += [part[i : i + batch_size].tolist() for i in range(0, len(part), batch_size)]
        batches += [pieces[i] for i in draw.permutation(len(pieces))]
        epoch += 1
    return batches[:wanted]


def prediction_batches(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Every row once, the longest first, in batches of at most so many tokens with padding, or of one row."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    for index in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= most_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
