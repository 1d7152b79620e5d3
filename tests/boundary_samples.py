# SPDX-License-Identifier: Apache-2.0
"""Inputs of `boundary_mlp` for its tests: one list feeds values, gradients, opcheck and compile."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
import torch
from torch import Tensor

from spanbert_ext import ops

PARAMETERS = (
    "positions",
    "weight1",
    "bias1",
    "norm1_weight",
    "norm1_bias",
    "weight2",
    "bias2",
    "norm2_weight",
    "norm2_bias",
)
Spans = list[list[tuple[int, int]]]
on_every_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)]
)


@dataclass
class Sample:
    x: Tensor  # [B, L, H]
    masked_positions: Tensor  # [B, K]
    left_boundary: Tensor
    right_boundary: Tensor
    positions: Tensor  # [S, P]
    weight1: Tensor  # [E, 2H+P]
    bias1: Tensor  # [E]
    norm1_weight: Tensor
    norm1_bias: Tensor
    weight2: Tensor  # [D, E]
    bias2: Tensor  # [D]
    norm2_weight: Tensor
    norm2_bias: Tensor

    def tensors(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self)]

    def float_tensors(self) -> dict[str, Tensor]:
        return {
            f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name).is_floating_point()
        }

    def map(self, change) -> Sample:
        """A copy with every floating tensor changed."""
        return Sample(*(change(t) if t.is_floating_point() else t for t in self.tensors()))

    def to(self, dtype: torch.dtype) -> Sample:
        return self.map(lambda t: t.detach().to(dtype))

    def on(self, device: str) -> Sample:
        """The same strides on another device; on this one, the tensors themselves."""
        if device == self.x.device.type:
            return self
        return Sample(
            *(
                torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device).copy_(t)
                for t in self.tensors()
            )
        )

    def requires_grad(self) -> Sample:
        return self.map(lambda t: t.detach().clone().requires_grad_())

    def run(self, impl: str = "fused", eps: float = 1e-12, **options: int | Tensor | None) -> Tensor:
        """y, or (y, rows) with `token_rows`."""
        return ops.boundary_mlp(*self.tensors(), eps=eps, impl=impl, **options)

    def value_and_gradients(
        self,
        impl: str,
        grad_y: Tensor,
        autocast: torch.dtype | None = None,
        max_rows: int | None = None,
        token_rows: Tensor | None = None,
        grad_rows: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """{"y": value, name: gradient of every floating input}, and "rows" with `token_rows`."""
        leaves = self.requires_grad()
        with torch.autocast(self.x.device.type, dtype=autocast, enabled=autocast is not None):
            outputs = leaves.run(impl, max_rows=max_rows, token_rows=token_rows)
        if token_rows is None:
            values, upstream = {"y": outputs}, [grad_y]
        else:
            values, upstream = dict(zip(("y", "rows"), outputs, strict=True)), [grad_y, grad_rows]
        names, tensors = zip(*leaves.float_tensors().items(), strict=True)
        upstream = [grad.to(value) for grad, value in zip(upstream, values.values(), strict=True)]
        gradients = torch.autograd.grad(list(values.values()), tensors, upstream)
        detached = {name: value.detach() for name, value in values.items()}
        return detached | dict(zip(names, gradients, strict=True))

    def forward_arguments(self, dtype: torch.dtype, token_rows: Tensor | None = None) -> tuple:
        """Of the forward operator."""
        return (*self.tensors(), 1e-12, dtype, None, token_rows)

    def backward_arguments(
        self,
        dtype: torch.dtype,
        grad_y: Tensor | None,
        needs: tuple[bool, bool] = (True, True),
        token_rows: Tensor | None = None,
        grad_rows: Tensor | None = None,
    ) -> tuple:
        """Of the backward operator; `needs` are need_x and need_parameters."""
        forward = torch.ops.spanbert_ext.boundary_mlp
        saved = forward(*self.forward_arguments(dtype, token_rows))[2:]
        return (grad_y, grad_rows, *self.tensors(), *saved, dtype, *needs, None, token_rows)


def indices(spans: Spans, length: int, width: int, slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """The three [B, K] index tensors of masked half-open spans.

    A span without both neighbours in the row has no target, nor has a token beyond the slots.
    """
    masked, left, right = (torch.full((len(spans), width), -1) for _ in range(3))
    for row, row_spans in enumerate(spans):
        tokens = [(token, start, end) for start, end in row_spans for token in range(start, end)]
        for k, (token, start, end) in enumerate(tokens):
            masked[row, k] = token
            if start >= 1 and end < length and token - start < slots:
                left[row, k], right[row, k] = start - 1, end
    return masked, left, right


def make_sample(
    spans: Spans,
    length: int,
    hidden: int,
    inner: int,
    outer: int,
    *,
    slots: int = 4,
    position_dim: int = 5,
    width: int | None = None,
    seed: int = 0,
    peaks: float = 0.0,
) -> Sample:
    """float64; `peaks` is added to a few hidden columns, as in trained encoders."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale + mean

    width = width or max((sum(end - start for start, end in row) for row in spans), default=0)
    columns = 2 * hidden + position_dim
    x = normal(len(spans), length, hidden)
    x[..., : hidden // 32] += peaks
    return Sample(
        x,
        *indices(spans, length, width, slots),
        normal(slots, position_dim),
        normal(inner, columns, scale=columns**-0.5),
        normal(inner, scale=0.1),
        normal(inner, scale=0.1, mean=1),
        normal(inner, scale=0.1),
        normal(outer, inner, scale=inner**-0.5),
        normal(outer, scale=0.1),
        normal(outer, scale=0.1, mean=1),
        normal(outer, scale=0.1),
    )


def grad_like(sample: Sample, seed: int = 3) -> Tensor:
    shape = (*sample.masked_positions.shape, sample.weight2.shape[0])
    grad_y = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return grad_y.to(sample.x.device)


def some_tokens(sample: Sample, rows: int, seed: int = 5) -> tuple[Tensor, Tensor]:
    """token_rows [rows] of all tokens in no order, some repeated, some -1; and a gradient of their rows."""
    generator = torch.Generator().manual_seed(seed)
    batch, length, hidden = sample.x.shape
    token_rows = torch.randint(-1, max(batch * length, 0), (rows,), generator=generator)
    grad_rows = torch.randn(rows, hidden, generator=generator, dtype=torch.float64)
    return token_rows.to(sample.x.device), grad_rows.to(sample.x.device)


def small() -> Sample:
    """Two spans that share token 3, a span beside the row's end, one row of padding in the indices."""
    return make_sample([[(1, 3), (4, 6)], [(2, 3), (8, 9)]], 9, 3, 5, 4, width=5)


def random_spans(rows: int, length: int, seed: int) -> Spans:
    """Spans of 1 to 6 tokens, half of them one token apart: that token bounds two spans."""
    generator = torch.Generator().manual_seed(seed)
    spans: Spans = []
    for _ in range(rows):
        row, start = [], 1
        while start < length - 7:
            size, gap = (int(torch.randint(1, high, (), generator=generator)) for high in (7, 3))
            row.append((start, start + size))
            start += size + gap
        spans.append(row)
    return spans


def strided(sample: Sample) -> Sample:
    """The same values, no tensor contiguous."""

    def spread(t: Tensor) -> Tensor:
        wide = torch.full((*t.shape[:-1], 2 * t.shape[-1] + 1), -7, dtype=t.dtype)
        wide[..., 1::2] = t
        return wide[..., 1::2]

    changed = Sample(*(spread(t) for t in sample.tensors()))
    changed.x = sample.x.transpose(0, 1).contiguous().transpose(0, 1)
    changed.weight2 = sample.weight2.t().contiguous().t()
    return changed


def sample_inputs() -> dict[str, Sample]:
    """Sizes off every vector and tile width; spans at the row's ends, side by side, longer than the slots."""
    mixed: Spans = [[(1, 3), (4, 6), (8, 14)], [(0, 2), (3, 4), (15, 17)], []]
    none = make_sample([[(0, 2)], [(15, 17)]], 17, 7, 9, 5)
    no_length = make_sample([[], []], 0, 7, 9, 5)
    int32 = make_sample(mixed, 17, 7, 9, 5)
    for name in ("masked_positions", "left_boundary", "right_boundary"):
        setattr(int32, name, getattr(int32, name).int())
    return {
        "smallest": make_sample([[(1, 2)]], 3, 1, 1, 1, slots=1, position_dim=1),
        "odd": make_sample(mixed, 17, 127, 129, 65),
        "wide": make_sample(mixed, 17, 3, 769, 31, width=20),
        "narrow": make_sample(mixed, 17, 1, 2, 3),
        "chunks": make_sample(random_spans(5, 131, 1), 131, 33, 17, 9, width=131),
        "strided": strided(make_sample(mixed, 17, 15, 17, 33)),
        "int32": int32,
        "no_target": none,
        "no_masked_token": make_sample([[], []], 6, 7, 9, 5),
        "no_length": no_length,
        "no_batch": make_sample([], 6, 7, 9, 5, width=3),
    }
