# SPDX-License-Identifier: Apache-2.0
"""The epoch of a batch's masks: one of a few for static masks, and a fresh one where a collator was told none."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from spanbert_ext.masking.checks import EPOCHS
from spanbert_ext.reference.span_mask import philox4x32

_SLOTS = 1024  # workers with a cell of their own
# 2^32 over the golden ratio: its first N <= 10,000 multiples modulo 2^32 keep a distance of 2^32 / (2.3 N).
_PASS_STEP = 0x9E3779B9

Epoch = TypeVar("Epoch", int, Tensor)


def copy_of_epoch(epoch: Epoch, copies: int) -> Epoch:
    """The epoch whose masks `epoch` has when a row has `copies` masks, seen in turn; 0: every epoch has its own."""
    return epoch % copies if copies else epoch


def any_copy(batch_epoch: int, copies: int) -> int:
    """One of `copies` epochs for a batch of a number that is no epoch; without copies that number.

    Drawn by a hash of the number, each with probability 1 / copies, whatever the distance of the batches that a row is
    in: n passes show it copies * (1 - (1 - 1 / copies)^n) of them on average. A remainder, or one of the number's
    multiples, would repeat a copy where a pass has certain numbers of batches.
    """
    return philox4x32((0, 0), (batch_epoch, 0, 0, 0))[0] * copies // 2**32 if copies else batch_epoch


def batch_epoch(run: int, batch: int) -> int:
    """The epoch of the batch's masks: no two are equal among N <= 10,000 passes of up to 2^32 / (2.3 N) batches."""
    return (batch + run * _PASS_STEP) % EPOCHS


class BatchEpochs:
    """Counts the batches of a collator and gives each an epoch.

    Without workers, pass 0 has all batches, numbered from when the collator was made. In a DataLoader's workers a pass
    begins where their processes do, and batch n of worker w of W is number n·W + w; persistent workers cannot see a
    new pass: they count on. Nothing comes from torch's generators, so a new process that makes the same batches gives
    them the same epochs.

    How many passes there were stands in shared memory, one cell of 64 bits for each worker: the number of its last pass
    and 32 bits of the loader's seed, which tell its workers that they belong to one pass. Each worker writes its own
    cell alone, in one store, so workers that begin at once agree without a lock. Two loaders that share a collator and
    run at the same time have fresh masks too, but which loader's pass has which number is a matter of time.
    """

    def __init__(self) -> None:
        self._batches = 0
        self._pass: int | None = None  # of this worker
        self._cells = torch.zeros(_SLOTS, dtype=torch.int64).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._cells.share_memory_()  # an ordinary pickle carries the values, not the sharing

    def next(self) -> int:
        """The epoch of the next batch in this process."""
        worker = get_worker_info()
        if worker is not None and self._pass is None:
            self._pass, self._batches = self._join(worker.id, worker.seed - worker.id), 0
        number = self._batches
        self._batches += 1
        if worker is None:
            return batch_epoch(0, number)
        return batch_epoch(self._pass, number * worker.num_workers + worker.id)

    def _join(self, worker: int, loader_seed: int) -> int:
        """The number of the pass, from 1 on, that a worker's first batch is in."""
        seed, own = loader_seed % 2**32, worker % _SLOTS
        cells = self._cells.clone()
        passes, seeds = cells >> 32, cells & 0xFFFFFFFF
        # Behind the worker's own last pass: a loader may have the same seed in every pass.
        begun = passes[(seeds == seed) & (passes > passes[own])]
        number = int(begun.max()) if begun.numel() else int(passes.max()) + 1
        self._cells[own] = number << 32 | seed
        return number
