# SPDX-License-Identifier: Apache-2.0
"""`boundary_mlp` under torch.compile and in every dtype."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from boundary_samples import grad_like, sample_inputs
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from spanbert_ext import ops

SAMPLES = sample_inputs()
# The largest relative error of a tensor.
NEAR = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.15}


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(dynamic: bool) -> None:
    # aot_eager traces forward and backward through the fake kernels; code generation is not ours
    compiled = torch.compile(ops.boundary_mlp, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for name in ("odd", "wide", "int32", "no_target"):
        sample = SAMPLES[name].requires_grad()
        y = compiled(*sample.tensors())
        y.backward(grad_like(sample))
        expected = sample.value_and_gradients("fused", grad_like(sample))
        assert torch.equal(y, expected["y"])
        for key, tensor in sample.float_tensors().items():
            assert torch.equal(tensor.grad, expected[key]), key


def test_a_bound_that_changes_compiles_twice_at_most() -> None:
    sample = SAMPLES["odd"].requires_grad()
    counter = CompileCounterWithBackend("aot_eager")

    def loss(max_rows: int) -> Tensor:
        return ops.boundary_mlp(*sample.tensors(), max_rows=max_rows).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    live = int((sample.left_boundary >= 0).sum())
    for max_rows in range(live, live + 10):
        value = compiled(max_rows)
        (gradient,) = torch.autograd.grad(value, sample.x)
        (expected,) = torch.autograd.grad(loss(max_rows), sample.x)
        assert torch.equal(value, loss(max_rows)) and torch.equal(gradient, expected)
    assert counter.frame_count <= 2


def test_compiles_under_autocast() -> None:
    def loss(*tensors: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return F.relu(ops.boundary_mlp(*tensors)).sum()

    sample = SAMPLES["odd"].to(torch.float32).requires_grad()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    results = []
    for function in (loss, compiled):
        value = function(*sample.tensors())
        results.append((value.detach(), *torch.autograd.grad(value, list(sample.float_tensors().values()))))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("name", ["odd", "wide", "strided"])
def test_every_dtype_is_near_float64(name: str, dtype: torch.dtype) -> None:
    """test_cpu_capabilities.py runs it with every instruction set."""
    sample = SAMPLES[name].to(dtype)
    grad_y = grad_like(sample).to(dtype)
    exact = sample.to(torch.float64).value_and_gradients("reference", grad_y)
    for key, value in sample.value_and_gradients("fused", grad_y).items():
        assert (value.double() - exact[key]).norm() <= NEAR[dtype] * exact[key].norm(), key
