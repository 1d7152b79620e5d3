# SPDX-License-Identifier: Apache-2.0
"""The operators behind the public functions refuse tensors on several devices, and their fakes what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import vocab_ce_samples
from boundary_samples import grad_like, small
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

OPS = torch.ops.spanbert_ext
FLOAT = torch.float64


def calls() -> dict[str, dict[str, Any]]:
    """A valid call of every operator, by the names of its arguments."""
    case = vocab_ce_samples.sample(9, 5, 13)
    boundary = small()
    tokens = torch.tensor([1, -1, 3])
    forward = boundary.forward_arguments(FLOAT, tokens)
    backward = boundary.backward_arguments(FLOAT, grad_like(boundary), (True, True), tokens)
    ids = torch.arange(5, 25).reshape(2, 10)
    kinds = torch.ones(40, dtype=torch.uint8)
    options = (None, None, None, None, 3, 0, 0.15, 0.2, 10, 20, 0.8, 0.1, False, True, 0.5)
    targets = torch.arange(6)
    arguments = {
        "span_mask": (ids, kinds, torch.arange(30, 40), torch.tensor(1), torch.tensor(2), *options),
        "boundary_mlp": forward,
        "boundary_mlp_backward": backward,
        "head_targets": (ids, torch.tensor([[1, 2], [3, -1]]), None, None, None, 1.0, FLOAT, None),
        "head_statistics": (torch.ones(6), targets, targets, torch.arange(6).reshape(2, 3), False),
        "vocab_ce": (
            *(case.h, case.weight, case.bias, list(case.first_rows), case.targets, case.row_weight),
            *(FLOAT, 0.0, None, True, True, True),
        ),
        "vocab_ce_gradient_rows": (torch.ones(3, 4), torch.tensor([0, -1, 2]), torch.ones(()), torch.float32),
        "vocab_ce_scale_": (torch.ones(3, 4), torch.ones(())),
    }
    return {
        name: dict(zip((a.name for a in schema(name).arguments), values, strict=True))
        for name, values in arguments.items()
    }


def schema(name: str) -> Any:
    return getattr(OPS, name).default._schema


def call(name: str, given: dict[str, Any]) -> Any:
    positional = [given[a.name] for a in schema(name).arguments if not a.kwarg_only]
    return getattr(OPS, name)(
        *positional, **{a.name: given[a.name] for a in schema(name).arguments if a.kwarg_only}
    )


TENSORS = [
    (name, argument)
    for name, given in calls().items()
    for argument, value in given.items()
    if isinstance(value, Tensor)
]


def test_every_operator_is_listed() -> None:
    registered = {
        n.split("::")[1].split(".")[0] for n in torch._C._dispatch_get_all_op_names() if "spanbert_ext::" in n
    }
    assert {name for name in registered if not name.startswith("tune")} >= set(calls())
    for name, given in calls().items():
        call(name, given)


@pytest.mark.parametrize(("name", "argument"), TENSORS)
def test_one_tensor_on_another_device_is_named(name: str, argument: str) -> None:
    given = calls()[name]
    given[argument] = given[argument].to("meta")
    first = next(key for key, value in given.items() if isinstance(value, Tensor))
    named = r"\w+" if argument == first or name == "head_statistics" else argument
    named = {"slots": "compact_rows"}.get(named, named)
    with pytest.raises(ValueError, match=rf"{name}: {named} is on (meta|cpu), expected (cpu|meta) as "):
        call(name, given)


@pytest.mark.parametrize(("name", "argument"), TENSORS)
def test_fake_kernels_refuse_a_shape_and_a_dtype_as_the_operators_do(name: str, argument: str) -> None:
    def other_shape(tensor: Tensor) -> Tensor:
        return tensor[None] if tensor.dim() else torch.stack([tensor] * 3)

    def other_dtype(tensor: Tensor) -> Tensor:
        return tensor.to(torch.complex64)

    any_shape = (name, argument) == ("vocab_ce_scale_", "gradient")
    any_dtype = (name, argument) == ("boundary_mlp_backward", "token_rows")  # only their gradient reads them
    for change in [other_shape] * (not any_shape) + [other_dtype] * (not any_dtype):
        given = calls()[name]
        given[argument] = change(given[argument])
        with pytest.raises(Exception) as real:
            call(name, given)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = {k: mode.from_tensor(v) if isinstance(v, Tensor) else v for k, v in given.items()}
            with pytest.raises(type(real.value), match=name.removesuffix("_backward")):
                call(name, fake)
