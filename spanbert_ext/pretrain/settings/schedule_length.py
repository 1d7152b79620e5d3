# SPDX-License-Identifier: Apache-2.0
"""How many steps a run takes: from the passes over its text, or the tokens, that the user asks for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spanbert_ext.pretrain.settings.options import Options


@dataclass(frozen=True)
class TrainingRows:
    """Lengths of all training rows, special tokens included: `lengths` [N] those of --block-size, `short_lengths` [M]
    those of --short-block-size, where there is a short phase. `passes`: how often the text was made into rows."""

    lengths: np.ndarray
    short_lengths: np.ndarray | None = None
    passes: int = 1

    @property
    def tokens(self) -> int:
        """Of one pass over the text."""
        return round(int(self.lengths.sum(dtype=np.int64)) / self.passes)

    @property
    def mean_length(self) -> float:
        return float(self.lengths.mean())


def tokens_per_update(options: Options, rows: TrainingRows, processes: int) -> float:
    """Mean over the run. An update has --batch-size rows of each forward pass and process, and goes on from one pass
    over the rows to the next; of --tokens-per-batch tokens a pass has a whole number of nearly equal ones."""

    def of_phase(lengths: np.ndarray) -> float:
        total = int(lengths.sum(dtype=np.int64))
        if options.tokens_per_batch is not None:
            return total / max(1, round(total / options.tokens_per_batch))
        return options.batch_size * options.gradient_accumulation * processes * total / len(lengths)

    mean = of_phase(rows.lengths)
    if options.short_phase and rows.short_lengths is not None:
        mean += options.short_phase * (of_phase(rows.short_lengths) - mean)
    return mean


def steps_of(options: Options, rows: TrainingRows, processes: int = 1) -> int:
    """The steps of resolved options: given ones, or as many as read `epochs` times the text, or `max_tokens`."""
    if options.max_steps is not None:
        return options.max_steps
    budget = options.max_tokens if options.epochs is None else options.epochs * rows.tokens
    return max(1, round(budget / tokens_per_update(options, rows, processes)))
