# SPDX-License-Identifier: Apache-2.0
"""Derivatives that the compiled operators do not have raise and name a way out; what vmap gives is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import vocab_ce_samples
from boundary_samples import PARAMETERS, Sample, small
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vmap

from spanbert_ext import ops

Function = Callable[[Tensor, str], Tensor]


def vocab_ce_of(name: str) -> tuple[Function, Tensor]:
    case = vocab_ce_samples.sample(9, 5, 13).to(torch.float64)
    case = replace(case, **{t: getattr(case, t).detach() for t in ("h", "weight", "bias")})
    return lambda value, impl: replace(case, **{name: value}).run(impl).loss, getattr(case, name)


def boundary_mlp_of(name: str) -> tuple[Function, Tensor]:
    case = small()

    def run(value: Tensor, impl: str) -> Tensor:
        return Sample(**{**vars(case), name: value}).run(impl, eps=1e-5).square().sum()

    return run, getattr(case, name)


def span_pretraining_loss_of(name: str) -> tuple[Function, Tensor]:
    x, weight = torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(11, 4, dtype=torch.float64)
    labels, masked = torch.randint(0, 11, (2, 5)), torch.tensor([[1, 3], [2, -1]])

    def run(value: Tensor, impl: str) -> Tensor:
        given = {"x": x, "weight": weight, name: value}
        return ops.span_pretraining_loss(
            labels=labels, masked_positions=masked, transform=torch.tanh, bias=None, impl=impl, **given
        ).loss

    return run, {"x": x, "weight": weight}[name]


INPUTS = {
    **{f"vocab_ce {name}": (vocab_ce_of, name) for name in ("h", "weight", "bias", "row_weight")},
    **{f"boundary_mlp {name}": (boundary_mlp_of, name) for name in ("x", *PARAMETERS)},
    **{f"span_pretraining_loss {name}": (span_pretraining_loss_of, name) for name in ("x", "weight")},
}


def in_dual_level(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, torch.ones_like(x)))).tangent


def in_dual_level_of_a_leaf(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return in_dual_level(function, x.clone().requires_grad_())


FORWARD = {
    "jvp": lambda f, x: jvp(f, (x,), (torch.ones_like(x),)),
    "jacfwd": lambda f, x: jacfwd(f)(x),
    "linearize": lambda f, x: linearize(f, x)[0],
    "dual_level": in_dual_level,
    "dual_level of a leaf": in_dual_level_of_a_leaf,
    "jvp of grad": lambda f, x: jvp(grad(f), (x,), (torch.ones_like(x),)),
    "grad of jvp": lambda f, x: grad(lambda x: jvp(f, (x,), (torch.ones_like(x),))[1])(x),
    "hessian": lambda f, x: hessian(f)(x),
    "jvp of vmap": lambda f, x: jvp(vmap(f), (x[None],), (torch.ones_like(x[None]),)),
    "vmap of jvp": lambda f, x: vmap(lambda x: jvp(f, (x,), (torch.ones_like(x),)))(x[None]),
    "grad in a dual level": lambda f, x: in_dual_level(grad(f), x),
    "forward-mode jacobian": lambda f, x: torch.autograd.functional.jacobian(
        f, x, vectorize=True, strategy="forward-mode"
    ),
    "compiled": lambda f, x: in_dual_level(torch.compile(f, backend="aot_eager"), x),
}
REVERSE = {
    "grad": lambda f, x: grad(f)(x),
    "jacrev": lambda f, x: jacrev(f)(x),
    "grad of grad": lambda f, x: grad(lambda x: grad(f)(x).sum())(x),
    "vmap of grad": lambda f, x: vmap(grad(f))(x[None]),
    "grad of vmap": lambda f, x: grad(lambda x: vmap(f)(x).sum())(x[None]),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
@pytest.mark.parametrize("case", INPUTS)
def test_forward_mode_raises_for_every_differentiable_input(case: str) -> None:
    make, name = INPUTS[case]
    function, x = make(name)
    for how in ("jvp", "dual_level", "dual_level of a leaf"):
        with pytest.raises(RuntimeError, match=r"no forward-mode derivative .*impl='reference'"):
            FORWARD[how](lambda x: function(x, "fused"), x)


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
@pytest.mark.parametrize("operator", [vocab_ce_of, boundary_mlp_of])
@pytest.mark.parametrize("how", FORWARD)
def test_forward_mode_of_every_kind_raises(how: str, operator: Callable) -> None:
    name = "h" if operator is vocab_ce_of else "x"
    function, x = operator(name)
    label = operator.__name__.removesuffix("_of")
    with pytest.raises(RuntimeError, match=rf"{label} has no forward-mode derivative .* {name} takes part"):
        FORWARD[how](lambda x: function(x, "fused"), x)
    FORWARD[how](lambda x: function(x, "reference"), x)  # the way out that the message names


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
@pytest.mark.parametrize("operator", [vocab_ce_of, boundary_mlp_of])
@pytest.mark.parametrize("how", REVERSE)
def test_transforms_of_reverse_mode_raise(how: str, operator: Callable) -> None:
    name = "h" if operator is vocab_ce_of else "x"
    function, x = operator(name)
    label = operator.__name__.removesuffix("_of")
    with pytest.raises(RuntimeError, match=rf"{label} has no derivative inside torch.func.grad .* {name} "):
        REVERSE[how](lambda x: function(x, "fused"), x)
    REVERSE[how](lambda x: function(x, "reference"), x)


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
def test_a_traced_jvp_raises() -> None:
    function, x = vocab_ce_of("h")

    def tangent(x: Tensor) -> Tensor:
        return jvp(lambda x: function(x, "fused"), (x,), (torch.ones_like(x),))[1]

    with pytest.raises(RuntimeError, match="vocab_ce has no forward-mode derivative"):
        torch.compile(tangent, backend="aot_eager")(x)


@pytest.mark.parametrize("case", INPUTS)
def test_vmap_gives_each_element_its_value_and_gradient(case: str) -> None:
    make, name = INPUTS[case]
    function, x = make(name)
    both = torch.stack([x, x + 0.5]).requires_grad_()
    values = vmap(lambda x: function(x, "fused"))(both)
    (gradients,) = torch.autograd.grad(values.sum(), both)
    for element, value, gradient in zip(both, values, gradients, strict=True):
        expected = function(element, "reference")
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
        (wanted,) = torch.autograd.grad(expected, both, retain_graph=True)
        index = 0 if element is both[0] or torch.equal(element, both[0]) else 1
        torch.testing.assert_close(gradient, wanted[index], rtol=1e-10, atol=1e-10)


def test_a_dual_level_without_dual_tensors_changes_nothing() -> None:
    function, x = vocab_ce_of("h")
    expected = function(x, "fused")
    with forward_ad.dual_level():
        assert torch.equal(function(x, "fused"), expected)


@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_statistics_and_counts_carry_no_gradient(impl: str) -> None:
    labels, masked = torch.tensor([[3, 4, 5]]), torch.tensor([[0, 2]])
    count = torch.tensor(4.0, requires_grad=True)
    heads = ops.head_targets(labels, masked, num_items=count, impl=impl)
    nll = torch.ones(2, requires_grad=True)
    found = ops.head_statistics(nll, heads.targets, heads.targets, heads.ranks, has_sbo=False, impl=impl)
    assert not any(tensor.requires_grad for tensor in (*heads, *found))
