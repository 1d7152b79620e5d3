# SPDX-License-Identifier: Apache-2.0
"""What a provider of bench_sbo.py is, and where and on what it competes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from support.errors import Unavailable
from support.head_problem import Batch, Heads
from support.machine import available_bytes
from support.rates import gemm_tflop_s
from support.text import Shape

Precision = Literal["float32", "autocast", "bfloat16"]
"""float32 everywhere; float32 parameters and hidden states under bfloat16 autocast; bfloat16 everywhere."""

SLOW_PRODUCT = 10.0  # seconds of one of a step's products, beyond which its rounds would take too long

Loss = Callable[[Heads, Tensor, Batch], Tensor]


@dataclass(frozen=True)
class Provider:
    name: str
    precision: Precision
    loss: Loss
    notes: dict[str, Any] = field(default_factory=dict)  # what the report should say, a chosen chunk for one
    foreign: bool = False  # another project's kernels: where they are wrong, the others are still measured


@dataclass(frozen=True)
class Setting:
    """Where and on what providers compete. `full_ms` times a provider's step, for builders that tune."""

    shape: Shape
    device: torch.device
    dtype: torch.dtype
    rows: tuple[int, int]  # MLM and SBO rows of a typical batch
    full_ms: Callable[[Provider], float]
    tuned: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # by provider: what an earlier tuning chose

    @property
    def precision(self) -> Precision:
        return "float32" if self.dtype == torch.float32 else "autocast"

    def require_memory(self, logits: int) -> None:
        """Unavailable when four float32 copies of the logits (eager, forward and backward) cannot fit."""
        needed, free = 16 * logits, available_bytes(self.device)
        if needed > free:
            raise Unavailable(f"needs about {needed / 1e9:.0f} GB for logits, {free / 1e9:.0f} GB are free")

    @cached_property
    def product_seconds(self) -> float:
        """About how long the slowest of the products with the decoder takes in this run's dtype."""
        flops = 2 * sum(self.rows) * self.shape.vocab * self.shape.hidden
        return flops / gemm_tflop_s(self.device, self.dtype, 256) / 1e12

    def require_speed(self) -> None:
        """Unavailable when torch multiplies matrices of this run's dtype without the processor's help."""
        if self.device.type == "cpu" and self.product_seconds > SLOW_PRODUCT:
            raise Unavailable(
                f"torch has no fast {str(self.dtype).removeprefix('torch.')} products on this processor: one of "
                f"a step's takes about {self.product_seconds:.0f} s"
            )


Builder = Callable[[Setting], Provider]
"""Raises Unavailable, with the reason, for a provider that cannot run there."""


def boundary_rows(heads: Heads, flat: Tensor, batch: Batch) -> Tensor:
    """SBO representations of the live rows, [N_sbo, D]."""
    left, right = flat[batch.sbo_left_rows], flat[batch.sbo_right_rows]  # [N_sbo, H]
    positions = heads.sbo.position_embeddings(batch.sbo_slots)  # [N_sbo, P]
    return heads.sbo(torch.cat([left, right, positions], dim=-1))
