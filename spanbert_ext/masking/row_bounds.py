# SPDX-License-Identifier: Apache-2.0
"""How many rows the heads decode and read, as plain numbers in a batch, which cost no read from a device.

A GPU's memory and matrix products are sized on the host before the GPU has counted anything. Without a number they are
sized for the most that there could be, which is much where rows are short.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

BOUND_STEP = 256  # bounds are multiples of it, so that batches share their shapes
_WORTH = 0.75  # a bound above this share of what is known without it is left out


@functools.total_ordering
class HostNumber:
    """A number of a batch that stays on the host when a loop moves every value with `.to(device)` or `.cuda()`.

    Where Python wants an int it is one, but of no class below int: of these torch.compile takes every value for true
    (torch 2.11), or makes a graph for each (2.13). Compiled code reads `number`.
    """

    def __init__(self, number: int) -> None:
        self.number = int(number)

    def to(self, *args: Any, **kwargs: Any) -> HostNumber:
        return self

    def cuda(self, *args: Any, **kwargs: Any) -> HostNumber:
        return self

    def __index__(self) -> int:
        return self.number

    def __bool__(self) -> bool:
        return self.number != 0

    def __eq__(self, other: object) -> bool:
        return self.number == (other.number if isinstance(other, HostNumber) else other)

    def __lt__(self, other: Any) -> bool:
        return self.number < (other.number if isinstance(other, HostNumber) else other)

    def __hash__(self) -> int:
        return hash(self.number)

    def __repr__(self) -> str:
        return repr(self.number)


def batches_are_joined() -> bool:
    """Whether accelerate will join this batch with others, which it can do with tensors alone.

    Its dispatching loader reads an iterable dataset, or any with `dispatch_batches`, in the first of several processes
    and sends the others their share. While it is read it is accelerate's active loader, also in workers that are
    forked then; workers that are started anew do not know.
    """
    states = sys.modules.get("accelerate.state")
    if states is None or not states.GradientState._shared_state:  # nobody has a loader of accelerate
        return False
    from accelerate.data_loader import DataLoaderDispatcher

    loader = getattr(states.GradientState(), "active_dataloader", None)
    return isinstance(loader, DataLoaderDispatcher) and loader.state.num_processes > 1


def rounded_up(count: int) -> int:
    """The next multiple of BOUND_STEP."""
    return -(-count // BOUND_STEP) * BOUND_STEP


def row_bounds(positions: Sequence[Tensor], length: int) -> dict[str, HostNumber]:
    """The bounds of a masked batch that spare a GPU at least a quarter of its rows, for the model's `forward`.

    Rows that are read are counted by what shows without a table of them, a few percent too high: the tokens of a
    span have its boundaries in common, and a token between two spans counts for both.

    Args:
        positions: int64 `[B, K]` on the CPU: masked positions, then both boundaries, -1 where there is none.
        length: L.

    Returns:
        `max_rows`, a bound of the masked positions, and `max_read_rows`, one of the rows of hidden states that the
        heads read; each only where it is worth it. Multiples of BOUND_STEP.
    """
    batch, entries = positions[0].shape
    most = {"max_rows": batch * entries, "max_read_rows": batch * min(length, 1 + len(positions) * entries)}
    if _WORTH * most["max_read_rows"] < BOUND_STEP:
        return {}  # the other one is no larger
    masked, *boundaries = (x.numpy() for x in positions)  # NumPy: a third of torch's time at this size
    targets = int(np.count_nonzero(masked >= 0))
    read = batch + targets + sum(map(_changes, boundaries))
    bounds = {"max_rows": rounded_up(targets), "max_read_rows": rounded_up(read)}
    return {name: HostNumber(bound) for name, bound in bounds.items() if bound <= _WORTH * most[name]}


def _changes(boundary: np.ndarray) -> int:
    """How often a row of `[B, K]` has another position than in the entry before: no fewer than its positions."""
    flat = boundary.reshape(
        -1
    )  # [B * K], without a copy: loops over whole batches are faster than row by row
    changed = np.ones(flat.size, dtype=bool)
    np.not_equal(flat[1:], flat[:-1], out=changed[1:])
    changed[:: max(1, boundary.shape[1])] = True  # a row's first entry, whatever ends the row before
    changed &= flat >= 0
    return int(np.count_nonzero(changed))
