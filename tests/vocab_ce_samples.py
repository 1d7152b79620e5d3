# SPDX-License-Identifier: Apache-2.0
"""What the tests of vocab_ce share: one list of inputs, and how to run a case."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spanbert_ext import ops


@dataclass
class Sample:
    h: Tensor  # [N, D]
    weight: Tensor  # [V, D]
    bias: Tensor | None  # [G, V]
    targets: Tensor  # [N]
    row_weight: Tensor  # [N]
    first_rows: tuple[int, ...] = (0,)
    label_smoothing: float = 0.0

    def to(self, dtype: torch.dtype) -> Sample:
        """Values rounded to dtype, as leaves that require gradients."""
        acc = torch.float64 if dtype == torch.float64 else torch.float32

        def leaf(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.detach().to(dtype).requires_grad_()

        return replace(
            self,
            h=leaf(self.h),
            weight=leaf(self.weight),
            bias=leaf(self.bias),
            row_weight=self.row_weight.to(acc),
        )

    def run(self, impl: str = "fused") -> ops.VocabCEOutput:
        return ops.vocab_ce(
            self.h,
            self.weight,
            self.bias,
            self.targets,
            self.row_weight,
            first_rows=self.first_rows,
            label_smoothing=self.label_smoothing,
            impl=impl,
        )

    def leaves(self) -> list[Tensor]:
        return [t for t in (self.h, self.weight, self.bias) if t is not None]


def sample(
    rows: int = 33,
    width: int = 16,
    vocab: int = 127,
    *,
    blocks: int = 2,
    bias: bool = True,
    ignored: float = 0.2,
    scale: float = 1.0,
    label_smoothing: float = 0.0,
    seed: int = 0,
) -> Sample:
    g = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, vocab, (rows,), generator=g)
    targets[torch.rand(rows, generator=g) < ignored] = -100
    return Sample(
        h=torch.randn(rows, width, generator=g, dtype=torch.float64),
        weight=scale * torch.randn(vocab, width, generator=g, dtype=torch.float64) / width**0.5,
        bias=torch.randn(blocks, vocab, generator=g, dtype=torch.float64) if bias else None,
        targets=targets,
        row_weight=torch.rand(rows, generator=g, dtype=torch.float64) + 0.1,
        first_rows=tuple(rows * b // blocks for b in range(blocks)),
        label_smoothing=label_smoothing,
    )


def sample_inputs() -> dict[str, Sample]:
    """One list for value, gradient and opcheck tests: odd sizes, one row, many chunks, several blocks."""
    return {
        "plain": sample(),
        "one row": sample(1, 1, 1, blocks=1, ignored=0),
        "odd": sample(129, 127, 769, blocks=3),
        "several chunks": sample(450, 8, 65, blocks=2),
        "several vocabulary blocks": sample(40, 8, 9001, blocks=2),
        "no bias": sample(31, 7, 100, blocks=2, bias=False),
        "label smoothing": sample(50, 9, 211, label_smoothing=0.1),
        "empty block": replace(sample(20, 8, 33, blocks=3), first_rows=(0, 0, 12)),
        "all ignored": sample(17, 8, 33, ignored=1.1),
        "no rows": sample(0, 8, 33, blocks=1),
    }


def gradients(case: Sample, impl: str, factor: float = 1.0) -> list[Tensor]:
    output = case.run(impl)
    return list(torch.autograd.grad(output.loss * factor, case.leaves(), allow_unused=True))
