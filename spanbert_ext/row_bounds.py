"""How many rows the heads decode and read, as plain numbers that a batch carries: no device has to be asked for them.

A GPU's memory and matrix products are sized on the host before the GPU has counted anything. Without a number the host
takes the most that there could be, which is much where rows are short.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BOUND_STEP = 256  # bounds are multiples of it, so that batches share their shapes
_WORTH = 0.75  # a bound above this share of what is known without it is left out


def rounded_up(count: int) -> int:
    """The next multiple of BOUND_STEP."""
    return -(-count // BOUND_STEP) * BOUND_STEP


def mark_read(positions: Sequence[Tensor], batch: int, length: int) -> Tensor:
    """Which positions the heads read: bool `[batch * length]`.

    Those in the index tensors `[B, K]` (integers; outside 0 ... L - 1 they count as none) and the first of every row,
    which stands in for none.
    """
    joined = torch.cat(list(positions), dim=1)  # [B, n * K]
    # one column in front for no position, one behind for a position beyond the row
    columns = length + 2
    begins = torch.arange(1, 1 + batch * columns, columns, device=joined.device)  # [B]
    read = torch.zeros(batch * columns, dtype=torch.bool, device=joined.device)
    read.index_fill_(0, (joined.clamp(-1, length) + begins[:, None]).flatten(), True)
    read = read.view(batch, columns)[:, 1 : length + 1]
    read[:, :1].fill_(True)
    return read.flatten()


def row_bounds(positions: Sequence[Tensor], length: int) -> dict[str, int]:
    """The bounds of a masked batch that spare a GPU at least a quarter of its rows, for the model's `forward`.

    Args:
        positions: int64 `[B, K]` on the CPU: masked positions, then both boundaries, -1 where there is none.
        length: L.

    Returns:
        `max_rows`, a bound of the masked positions, and `max_read_rows`, one of the rows of hidden states that the
        heads read; each only where it is worth it. Multiples of BOUND_STEP.
    """
    batch, slots = positions[0].shape
    bounds = {}
    most = batch * slots
    if _WORTH * most >= BOUND_STEP:
        bounds["max_rows"] = (rounded_up(int((positions[0] >= 0).sum())), most)
    most = batch * min(length, 1 + len(positions) * slots)
    if _WORTH * most >= BOUND_STEP:
        bounds["max_read_rows"] = (rounded_up(int(mark_read(positions, batch, length).sum())), most)
    return {name: bound for name, (bound, most) in bounds.items() if bound <= _WORTH * most}
