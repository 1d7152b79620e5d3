# SPDX-License-Identifier: Apache-2.0
"""Options of a task: a dataclass whose fields say how the command line shows and checks them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

# Peak learning rates where none is given: of encoders with at most so many hidden units. Who changes them counts up
# `method` of the tasks.
RATES = ((128, 5e-4), (256, 3e-4), (512, 2e-4), (768, 5e-5), (math.inf, 2e-5))


def option(
    default: Any,
    help: str,
    *,
    metavar: str | None = None,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of an options class. The type of its default is the option's; of None it is `float` where `above` or
    `least` is one, else `int`.

    least, most: smallest and largest value; above: every finite number above it."""
    metadata = {
        "help": help,
        "metavar": metavar,
        "least": least,
        "most": most,
        "above": above,
        "choices": choices,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class TaskOptions:
    """What every task has. All of them are part of what identifies a result."""

    folds: int = option(
        4, "parts of a cross-validation, where the data has no split", metavar="N", least=2, most=1000
    )
    max_train: int | None = option(
        None, "items to train on at most in each fold, the same for all seeds", metavar="N", least=1
    )


@dataclass(frozen=True)
class TrainingOptions(TaskOptions):
    """Of a task that fine-tunes the whole encoder."""

    epochs: float | None = option(3.0, "passes over the training items", metavar="N", above=0.0)
    learning_rate: float | None = option(
        None,
        "peak, reached after the warm-up, then linear to 0 (default: by the encoder's hidden size: "
        + ", ".join(f"up to {size} {rate:g}" for size, rate in RATES[:-1])
        + f", above {RATES[-1][1]:g})",
        metavar="LR",
        above=0.0,
    )
    batch_size: int = option(16, "rows of an update", metavar="N", least=1, most=100_000)
    warmup_ratio: float = option(0.1, "share of the updates until the peak", metavar="SHARE", least=0, most=1)
    weight_decay: float = option(0.01, "decoupled, not of biases and norms", metavar="W", least=0, most=1)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm", metavar="G", above=0.0)

    def rate_for(self, hidden_size: int) -> float:
        """The peak learning rate of an encoder."""
        if self.learning_rate is not None:
            return self.learning_rate
        return next(rate for size, rate in RATES if hidden_size <= size)
