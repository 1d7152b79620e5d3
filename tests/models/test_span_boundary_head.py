# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from boundary_samples import indices
from torch import Tensor

from spanbert_ext.models.span_boundary_head import SpanBoundaryHead

INDICES = indices([[(1, 4), (5, 9)], [(2, 3)]], length=11, width=8, slots=3)


def head(**options: int) -> SpanBoundaryHead:
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "output_size": 10, "vocab_size": 50, "position_dim": 6, "position_slots": 3}
    return SpanBoundaryHead(**(sizes | options))


def hidden_states(width: int = 24) -> Tensor:
    return torch.randn(2, 11, width, generator=torch.Generator().manual_seed(1))


def test_parameters_and_their_shapes() -> None:
    assert {name: tuple(p.shape) for name, p in head().named_parameters()} == {
        "bias": (50,),
        "position_embeddings.weight": (3, 6),
        "dense1.weight": (24, 54),
        "dense1.bias": (24,),
        "norm1.weight": (24,),
        "norm1.bias": (24,),
        "dense2.weight": (10, 24),
        "dense2.bias": (10,),
        "norm2.weight": (10,),
        "norm2.bias": (10,),
    }


def test_defaults_are_the_papers() -> None:
    module = SpanBoundaryHead(8, 8, 9)
    assert tuple(module.position_embeddings.weight.shape) == (20, 200)
    assert module.norm1.eps == module.norm2.eps == 1e-12


def test_initial_values() -> None:
    module = head(hidden_size=96, output_size=64, position_dim=64, position_slots=40)
    for matrix in (module.position_embeddings.weight, module.dense1.weight, module.dense2.weight):
        # the standard error of a standard deviation is std / sqrt(2n), n >= 2560: 5 of them
        assert abs(matrix.std().item() - 0.02) < 5 * 0.02 / (2 * matrix.numel()) ** 0.5
        assert abs(matrix.mean().item()) < 5 * 0.02 / matrix.numel() ** 0.5
    for zero in (module.bias, module.dense1.bias, module.dense2.bias, module.norm1.bias, module.norm2.bias):
        assert not zero.any()
    assert (module.norm1.weight == 1).all() and (module.norm2.weight == 1).all()


def test_reset_parameters_repairs_raw_memory() -> None:
    module = head()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(float("nan"))
    module.reset_parameters()
    assert all(parameter.isfinite().all() and parameter.std() < 0.05 for parameter in module.parameters())


def test_forward_equals_the_reference_and_trains_every_parameter_but_the_vocabulary_bias() -> None:
    module, x = head().double(), hidden_states().double().requires_grad_()
    results = {}
    for impl in ("fused", "reference"):
        module.zero_grad()
        x.grad = None
        y = module(x, *INDICES, impl=impl)
        assert y.shape == (2, 8, 10)
        y.pow(3).sum().backward()
        gradients = {name: p.grad for name, p in module.named_parameters() if name != "bias"}
        results[impl] = {"y": y.detach(), "x": x.grad} | gradients
    assert module.bias.grad is None
    torch.testing.assert_close(results["fused"], results["reference"], rtol=1e-10, atol=1e-10)
    assert all(value.any() for value in results["fused"].values())


@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_token_rows_come_beside_the_representation(impl: str) -> None:
    module, x = head(), hidden_states()
    assert SpanBoundaryHead.gives_token_rows
    token_rows = torch.tensor([12, -1, 0])
    y, rows = module(x, *INDICES, impl=impl, token_rows=token_rows)
    assert torch.equal(y, module(x, *INDICES, impl=impl))
    assert torch.equal(rows, torch.stack([x[1, 1], torch.zeros(24), x[0, 0]]))


def test_eps_reaches_both_norms() -> None:
    x = hidden_states()
    wide = head(eps=0.5)
    assert (wide(x, *INDICES) - head()(x, *INDICES)).abs().max() > 0.1
    torch.testing.assert_close(wide(x, *INDICES), wide(x, *INDICES, impl="reference"))


def test_without_targets_every_used_parameter_gets_a_zero_gradient() -> None:
    module = head()
    none = torch.full((2, 8), -1)
    module(hidden_states(), none, none, none).sum().backward()
    for name, parameter in module.named_parameters():
        if name != "bias":  # enters through the vocabulary cross-entropy
            assert parameter.grad is not None and not parameter.grad.any(), name


def test_master_weights_under_autocast() -> None:
    module, x = head(), hidden_states().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x, *INDICES)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert module.dense1.weight.grad.dtype == torch.float32
    with pytest.raises(TypeError, match=r"positions has dtype torch.float32 and x has torch.bfloat16"):
        module(x, *INDICES)


@pytest.mark.parametrize("x", [hidden_states(23), hidden_states()[0]])
def test_wrong_hidden_states(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"x has shape .* expected \[B, L, 24\]"):
        head()(x, *INDICES)


@pytest.mark.parametrize(
    "name", ["hidden_size", "output_size", "vocab_size", "position_dim", "position_slots"]
)
def test_sizes_below_one(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0, expected an integer of at least 1"):
        head(**{name: 0})


def test_state_round_trip() -> None:
    old, new = head(), SpanBoundaryHead(24, 10, 50, 6, 3)
    new.load_state_dict(old.state_dict())
    x = hidden_states()
    assert torch.equal(old(x, *INDICES), new(x, *INDICES))
