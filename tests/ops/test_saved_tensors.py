# SPDX-License-Identifier: Apache-2.0
"""What backward reads may come back from a hook on saved tensors in any layout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import vocab_ce_samples
from boundary_samples import grad_like, sample_inputs
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def column_major(tensor: Tensor) -> Tensor:
    return tensor.t().contiguous().t() if tensor.dim() == 2 else tensor


def with_gaps(tensor: Tensor) -> Tensor:
    """Every other element of a tensor of twice the size in the last dimension."""
    if tensor.dim() == 0:
        return tensor
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), -1, dtype=torch.float64).to(tensor.dtype)
    wide[..., ::2] = tensor
    return wide[..., ::2]


def off_its_start(tensor: Tensor) -> Tensor:
    """Odd by one element: no wide access may be assumed."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)


LAYOUTS = pytest.mark.parametrize("layout", [column_major, with_gaps, off_its_start])


def gradients_in(
    layout: Callable[[Tensor], Tensor], loss: Callable[[], Tensor], leaves: list[Tensor]
) -> list[Tensor]:
    with saved_tensors_hooks(lambda tensor: tensor, layout):
        return list(torch.autograd.grad(loss(), leaves))


@LAYOUTS
@pytest.mark.parametrize("name", ["odd", "wide"])
def test_boundary_mlp_reads_any_layout(name: str, layout: Callable[[Tensor], Tensor]) -> None:
    sample = sample_inputs()[name].requires_grad()
    grad_y = grad_like(sample)

    def loss() -> Tensor:
        return (sample.run() * grad_y).sum()

    leaves = list(sample.float_tensors().values())
    for got, expected in zip(
        gradients_in(layout, loss, leaves), torch.autograd.grad(loss(), leaves), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@LAYOUTS
@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_vocab_ce_reads_any_layout(factor: float, layout: Callable[[Tensor], Tensor]) -> None:
    case = vocab_ce_samples.sample(70, 24, 300, blocks=2).to(torch.float64)

    def loss() -> Tensor:
        return case.run().loss * factor

    for got, expected in zip(
        gradients_in(layout, loss, case.leaves()), torch.autograd.grad(loss(), case.leaves()), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
