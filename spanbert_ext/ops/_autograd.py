# SPDX-License-Identifier: Apache-2.0
"""What the operators' autograd formulas share: going by the schema's names, and what they cannot differentiate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from spanbert_ext.ops._torch_internals import (
    differentiated_by_transform,
    forward_mode_is_on,
    in_transform,
    layers,
)


def names(schema_list: Iterable[Any]) -> tuple[str, ...]:
    """The names of a schema's `arguments` or `returns`, in order."""
    return tuple(entry.name for entry in schema_list)


def by_name(schema: Any, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """The arguments of a call by the schema's names; those left out have their defaults."""
    given = {entry.name: entry.default_value for entry in schema.arguments}
    return given | dict(zip(names(schema.arguments), arguments, strict=False))


def wanted_inputs(ctx: Any, inputs: tuple[str, ...]) -> set[str]:
    """The names of the inputs whose gradient is wanted. An input left at its default is none of autograd's."""
    return {name for name, need in zip(inputs, ctx.needs_input_grad, strict=False) if need}


def refuse_double_backward(op: str) -> None:
    """Raises RuntimeError in a backward under `create_graph=True`.

    An operator's backward is opaque to autograd: a second derivative would be a silent zero.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{op} has no double backward (create_graph=True); use impl='reference' for second derivatives"
        )


def refuse_transforms(op: str, **inputs: Tensor | None) -> None:
    """Raises RuntimeError, naming the input, for derivatives that the compiled operators do not have.

    In forward mode torch drops the tangents of an operator that has no formula for them, and inside `torch.func.grad`
    it refuses operators that have a formula of their own. Outside of both this reads two numbers.
    """
    tracing = torch.compiler.is_compiling()
    transformed = not tracing and in_transform()
    if forward_mode_is_on():
        for name, tensor in inputs.items():
            if tensor is None:
                continue
            # A traced tensor and an outer layer do not show their tangents, so that every one counts there.
            if tracing or transformed or forward_ad.unpack_dual(tensor).tangent is not None:
                raise RuntimeError(
                    f"{op} has no forward-mode derivative (torch.func.jvp, jacfwd, hessian; forward_ad.dual_level), "
                    f"and {name} takes part in one; use impl='reference'"
                )
    if transformed and torch.is_grad_enabled():
        for name, tensor in inputs.items():
            if tensor is not None and differentiated_by_transform(tensor):
                raise RuntimeError(
                    f"{op} has no derivative inside torch.func.grad (vjp, jacrev, hessian), which {name} takes part "
                    "in; use impl='reference', or torch.autograd.grad outside of transforms"
                )


def requires_grad(tensor: Tensor | None) -> bool:
    """Whether a gradient of the tensor may be wanted: by autograd, here or outside of a `torch.func.vmap`."""
    if tensor is None or not torch.is_grad_enabled():
        return False
    if tensor.requires_grad or torch.compiler.is_compiling() or not in_transform():
        return tensor.requires_grad
    return any(layer.requires_grad for layer in layers(tensor))
