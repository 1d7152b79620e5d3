# SPDX-License-Identifier: Apache-2.0
"""Which rows make which update: a function of the seed and the update's number, so that nothing is replayed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

_ROUNDS = 8
_SHOWN = 16  # rows of an update in a message
_KEPT = 2**20  # rows whose whole order is made at once, and kept while it is read
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of splitmix64


def _hash(x: np.ndarray, key: np.uint64, bits: int) -> np.ndarray:
    """`bits` bits of a hash of uint64 numbers."""
    x = x + key
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    return (x ^ (x >> np.uint64(31))) >> np.uint64(64 - bits)


def shuffled(positions: np.ndarray, count: int, *key: int) -> np.ndarray:
    """What stands at `positions` of the order that `key` gives the numbers 0 ... count - 1: int64, as many.

    A permutation of 2^b >= count numbers (a Feistel network, whose rounds each change one half by a hash of the
    other), followed until it leads into the range: any part of the order is made without the rest."""
    bits = max(6, (count - 1).bit_length())  # a half of less than three bits mixes too little
    low_bits, high_bits = bits // 2, bits - bits // 2
    low_mask, shift = np.uint64(2**low_bits - 1), np.uint64(low_bits)
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8 * _ROUNDS).digest()
    keys = np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def permute(x: np.ndarray) -> np.ndarray:
        low, high = x & low_mask, x >> shift
        for round_ in range(0, _ROUNDS, 2):
            low = low ^ _hash(high, keys[round_], low_bits)
            high = high ^ _hash(low, keys[round_ + 1], high_bits)
        return high << shift | low

    result = permute(np.asarray(positions, dtype=np.uint64))
    outside = np.flatnonzero(result >= count)
    while len(outside):
        result[outside] = permute(result[outside])
        outside = outside[result[outside] >= count]
    return result.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Phase:
    """A stretch of updates on one kind of rows: of `rows` rows each, or of about `tokens` tokens.

    lengths: [N] tokens of each row."""

    lengths: np.ndarray
    updates: int
    rows: int | None = None
    tokens: int | None = None

    @cached_property
    def all_tokens(self) -> int:
        return int(self.lengths.sum(dtype=np.int64))

    @cached_property
    def updates_per_epoch(self) -> float:
        """How many updates read every row once: a whole number where they are of tokens."""
        if self.tokens is None:
            return len(self.lengths) / self.rows
        return max(1, round(self.all_tokens / self.tokens))


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of one forward pass: their numbers and epochs, int64 [n], in the rows of a phase."""

    phase: int
    rows: np.ndarray
    epochs: np.ndarray


class ScheduleError(ValueError):
    """The rows cannot be divided as asked; the message says why."""


class Schedule:
    """The rows of every update, and of each of its parts.

    An update is divided into `parts` parts, one for each process and accumulation step, so that it reads the same rows
    however many there are. Updates of n rows go on from one epoch to the next without a shorter one between them.
    Of updates of about n tokens an epoch has a whole number, of nearly equal size.

    Args:
        phases: one after the other; each begins its own epochs at 0.
        seed: of the order.
        parts: of an update.

    Raises ScheduleError for updates of tokens that are too few for the rows' lengths.
    """

    def __init__(self, phases: Sequence[Phase], seed: int, parts: int) -> None:
        self.phases = [phase for phase in phases if phase.updates]
        self.seed = seed
        self.parts = parts
        self._begins = np.cumsum([0, *(phase.updates for phase in self.phases)])
        self._orders: dict[
            tuple[int, int], np.ndarray
        ] = {}  # by phase and epoch, the last two that were read
        self._middles: tuple[tuple[int, int], np.ndarray] | None = None  # of the last epoch of tokens
        for phase in self.phases:
            if phase.tokens is not None:
                self._check_tokens(phase)

    def __len__(self) -> int:
        """The number of updates."""
        return int(self._begins[-1])

    def part(self, number: int) -> Part:
        """Part `number % parts` of update `number // parts`."""
        update, part = divmod(number, self.parts)
        phase, update = self._locate(update)
        size = self.phases[phase].rows
        if size is not None:
            first, end = (update * size + size * number // self.parts for number in (part, part + 1))
            return self._rows(phase, np.arange(first, end))
        return self._tokens(phase, update, part)

    def update(self, number: int) -> Part:
        """All rows of an update, in the order of its parts."""
        parts = [self.part(number * self.parts + part) for part in range(self.parts)]
        rows, epochs = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "epochs")
        )
        return Part(parts[0].phase, rows, epochs)

    def describe(self, number: int) -> str:
        """An update's rows, the first of many, for a message."""
        rows = self.update(number).rows.tolist()
        first = ", ".join(map(str, rows[:_SHOWN]))
        return f"{len(rows)} rows: {first}{', ...' if len(rows) > _SHOWN else ''}"

    def epoch(self, updates: int) -> float:
        """Passes over the rows in the first so many updates; over those of each phase, one after the other."""
        passes = 0.0
        for begin, phase in zip(self._begins, self.phases, strict=False):
            passes += min(max(0, updates - int(begin)), phase.updates) / phase.updates_per_epoch
        return passes

    def _locate(self, update: int) -> tuple[int, int]:
        if not 0 <= update < len(self):
            raise IndexError(f"update {update} of a schedule of {len(self)}")
        phase = int(np.searchsorted(self._begins, update, side="right")) - 1
        return phase, update - int(self._begins[phase])

    def _rows(self, phase: int, positions: np.ndarray) -> Part:
        """positions: in the orders of all epochs, one behind the other."""
        count = len(self.phases[phase].lengths)
        epochs, places = np.divmod(positions, count)
        rows = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            rows[here] = self._ordered(phase, epoch, places[here])
        return Part(phase, rows, epochs)

    def _tokens(self, number: int, update: int, part: int) -> Part:
        """A row is in the part that the middle of it is in, where an epoch's tokens are cut into equal parts."""
        phase = self.phases[number]
        epoch, update = divmod(update, phase.updates_per_epoch)
        if self._middles is None or self._middles[0] != (number, epoch):
            lengths = phase.lengths[self._ordered(number, epoch, np.arange(len(phase.lengths)))].astype(
                np.int64
            )
            self._middles = (number, epoch), 2 * np.cumsum(lengths) - lengths  # doubled: whole numbers
        parts = phase.updates_per_epoch * self.parts
        place = update * self.parts + part
        bounds = [2 * phase.all_tokens * p // parts for p in (place, place + 1)]
        first, end = np.searchsorted(self._middles[1], bounds)
        return Part(number, self._ordered(number, epoch, np.arange(first, end)), np.full(end - first, epoch))

    def _ordered(self, phase: int, epoch: int, places: np.ndarray) -> np.ndarray:
        """The rows at `places` of an epoch's order."""
        count = len(self.phases[phase].lengths)
        if count > _KEPT:
            return shuffled(places, count, self.seed, phase, epoch)
        if (phase, epoch) not in self._orders:
            newest = list(self._orders.items())[-1:]
            order = shuffled(np.arange(count), count, self.seed, phase, epoch)
            self._orders = dict([*newest, ((phase, epoch), order)])
        return self._orders[phase, epoch][places]

    def _check_tokens(self, phase: Phase) -> None:
        """Every part holds the middle of a row when it is longer than the longest one."""
        longest, update = int(phase.lengths.max()), phase.all_tokens / phase.updates_per_epoch
        if update / self.parts < longest + 1:
            raise ScheduleError(
                f"an update of {update:,.0f} tokens in {self.parts} parts (one for every process and accumulation"
                f" step) has no room for a row of {longest} tokens in each"
            )
