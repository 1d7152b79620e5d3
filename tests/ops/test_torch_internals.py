# SPDX-License-Identifier: Apache-2.0
"""Each private question about torch's state answers True and False in the right situations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from spanbert_ext.ops import _torch_internals as internals


def seen_in_backward(question: Callable[[Tensor], object], **options: object) -> object:
    """What the question answers about the upstream gradient, inside a backward pass."""
    answers = []

    class Probe(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, grad: Tensor) -> Tensor:
            answers.append(question(grad))
            return grad

    x = torch.ones(2, requires_grad=True)
    upstream = torch.ones(3, 2) if options.get("is_grads_batched") else torch.ones(2)
    torch.autograd.grad(Probe.apply(x), x, upstream, **options)
    return answers[0]


def test_backward_keeps_graph() -> None:
    assert seen_in_backward(lambda _: internals.backward_keeps_graph(), retain_graph=True) is True
    assert seen_in_backward(lambda _: internals.backward_keeps_graph()) is False


def test_in_dispatch_mode() -> None:
    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    assert internals.in_dispatch_mode() is False
    with Mode():
        assert internals.in_dispatch_mode() is True
    assert internals.in_dispatch_mode() is False


def test_is_batched() -> None:
    assert internals.is_batched(torch.ones(3)) is False
    assert seen_in_backward(internals.is_batched) is False
    assert seen_in_backward(internals.is_batched, is_grads_batched=True) is True

    def inside(x: Tensor) -> Tensor:
        assert internals.is_batched(x) is True
        return x

    torch.func.vmap(inside)(torch.ones(2, 3))


def test_forward_mode_is_on() -> None:
    assert internals.forward_mode_is_on() is False
    with forward_ad.dual_level():
        assert internals.forward_mode_is_on() is True
    seen = []
    x = torch.ones(3)
    torch.func.jvp(lambda x: seen.append(internals.forward_mode_is_on()) or x.sum(), (x,), (x,))
    torch.func.grad(lambda x: seen.append(internals.forward_mode_is_on()) or x.sum())(x)
    assert seen == [True, False]
    assert internals.forward_mode_is_on() is False


@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp"])
def test_in_transform(transform: str) -> None:
    seen = []

    def inside(x: Tensor) -> Tensor:
        seen.append(internals.in_transform())
        return x.sum()

    x = torch.ones(2, 3)
    {
        "vmap": lambda: torch.func.vmap(inside)(x),
        "grad": lambda: torch.func.grad(inside)(x),
        "jvp": lambda: torch.func.jvp(inside, (x,), (x,)),
    }[transform]()
    assert seen == [True]
    assert internals.in_transform() is False


def test_layers_are_listed_from_the_outside_in() -> None:
    plain = torch.ones(2, 3, requires_grad=True)
    assert [layer is plain for layer in internals.layers(plain)] == [True]
    seen = []

    def inside(x: Tensor) -> Tensor:
        seen.extend((tuple(layer.shape), layer.requires_grad) for layer in internals.layers(x))
        return x.sum()

    torch.func.vmap(inside)(plain)
    assert seen == [((3,), False), ((2, 3), True)]


def test_differentiated_by_transform() -> None:
    seen = {}

    def ask(name: str) -> Callable[[Tensor], Tensor]:
        def inside(x: Tensor) -> Tensor:
            seen[name] = internals.differentiated_by_transform(x)
            seen[name + " of a constant"] = internals.differentiated_by_transform(x.detach())
            return x.sum()

        return inside

    x = torch.ones(2, 3, requires_grad=True)
    torch.func.grad(ask("grad"))(x)
    torch.func.grad(lambda x: torch.func.vmap(ask("vmap in grad"))(x).sum())(x)
    torch.func.vmap(torch.func.grad(ask("grad in vmap")))(x)
    torch.func.vmap(ask("vmap"))(x)
    assert not internals.differentiated_by_transform(x)
    constant = " of a constant"
    assert seen == {
        "grad": True,
        "grad" + constant: False,
        "vmap in grad": True,
        "vmap in grad" + constant: False,
        "grad in vmap": True,
        "grad in vmap" + constant: False,
        "vmap": False,
        "vmap" + constant: False,
    }
