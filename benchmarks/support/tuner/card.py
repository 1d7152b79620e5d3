# SPDX-License-Identifier: Apache-2.0
"""What tune_cuda.py expects: a small model of the card, in which every prediction is made.

A product of matrices runs in waves of tiles, a row kernel at the rate of the memory or of its instructions, whichever
is slower. A measurement that is far from its prediction names what the model does not know, which is what is worth
looking at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

LAUNCH_US = 3.0  # a kernel that does nothing
TILE = (128, 256)  # of cuBLAS' large kernels on Hopper, a multiprocessor each
TILE_US = 2.0  # beginning and end of a tile: a guess that makes K = 768 run at about 630 TFLOP/s
MULTIPLE = 8  # of 16-bit elements: 16 bytes
INSTRUCTIONS_A_CLOCK = 2.5  # warps' instructions that a multiprocessor issues in such kernels
LANES = 32


@dataclass(frozen=True)
class Card:
    """Rates that large kernels reach, not those of a data sheet."""

    name: str
    tflop_s: float  # dense bfloat16 products on random numbers
    tb_s: float  # read plus written
    multiprocessors: int = 132
    clock_ghz: float = 1.83  # under load
    # Products with a dimension that breaks cuBLAS' rule, whatever the pitch; 237 to 275 were seen.
    misaligned_tflop_s: float = 250.0

    @property
    def clocks_per_us(self) -> float:
        return self.clock_ghz * 1e3


CARDS = {
    "h200": Card("H200", 788.0, 4.2),  # measured
    "h100": Card("H100", 750.0, 2.9),  # not measured: the H200's chip with a slower memory
}


def find_card(device_name: str) -> Card:
    """The row for a name such as `NVIDIA H200`; another card gets the H200's numbers."""
    return next((card for key, card in CARDS.items() if key in device_name.lower()), CARDS["h200"])


def memory_us(card: Card, moved_bytes: float) -> float:
    return moved_bytes / card.tb_s / 1e6


def tiles(rows: int, columns: int) -> int:
    """Of an output matrix, in the orientation that needs fewer."""
    high, wide = TILE
    return min(
        math.ceil(rows / high) * math.ceil(columns / wide), math.ceil(rows / wide) * math.ceil(columns / high)
    )


def product_us(
    card: Card, rows: int, columns: int, inner: int, *, aligned: bool, out_bytes: int, adds: bool = False
) -> float:
    """[rows, inner] times [inner, columns]; `out_bytes` an element of the result, which is read too if it `adds`."""
    flops = 2.0 * rows * columns * inner
    if not aligned:
        return flops / card.misaligned_tflop_s / 1e6 + LAUNCH_US
    count = tiles(rows, columns)
    split = max(
        1, card.multiprocessors // count
    )  # the inner dimension is cut where multiprocessors would idle
    tile_us = 2.0 * math.prod(TILE) * inner / split / (card.tflop_s * 1e6 / card.multiprocessors) + TILE_US
    waves = math.ceil(count * split / card.multiprocessors)
    moved = 2.0 * (rows * inner + inner * columns) + out_bytes * rows * columns * (2 if adds else 1)
    return max(waves * tile_us, memory_us(card, moved)) + LAUNCH_US


def row_kernel_us(card: Card, rows: int, pitch: int, instructions: float) -> float:
    """Cross-entropy over [rows, pitch] 16-bit logits, gradient in place, at so many instructions a logit."""
    issue = rows * pitch * instructions / LANES / INSTRUCTIONS_A_CLOCK
    issue_us = issue / card.multiprocessors / card.clocks_per_us
    return max(memory_us(card, 4.0 * rows * pitch), issue_us) + LAUNCH_US


def decoder_us(card: Card, rows: int, vocab: int, width: int, inner: int, chunk: int) -> float:
    """vocab_ce with gradients: operands packed, then by chunk products 1 to 3, the row kernel and column sums."""
    total = memory_us(card, vocab * (4.0 * width + 2.0 * inner) + rows * (4.0 * width + 2.0 * inner))
    done = 0
    while done < rows:
        part = min(chunk, rows - done)
        total += product_us(card, part, vocab, inner, aligned=True, out_bytes=2)
        total += product_us(card, vocab, width, part, aligned=True, out_bytes=4, adds=done > 0)
        total += product_us(card, part, width, vocab, aligned=True, out_bytes=2)
        total += row_kernel_us(card, part, vocab, 10.6)
        total += memory_us(card, 2.0 * part * vocab) + LAUNCH_US
        done += part
    return total
