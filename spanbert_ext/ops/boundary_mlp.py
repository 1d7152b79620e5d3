# SPDX-License-Identifier: Apache-2.0
"""The span-boundary head: two fused layers over [left token | right token | position], never concatenated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spanbert_ext import reference
from spanbert_ext.ops import _boundary_mlp_checks
from spanbert_ext.ops._autograd import (
    by_name,
    names,
    refuse_double_backward,
    refuse_transforms,
    wanted_inputs,
)
from spanbert_ext.ops._common import (
    Impl,
    accumulation_dtype,
    check_tensors,
    compute_dtype,
    expect_one_device,
    integer,
    may_read_values,
    real,
    require_kernels,
    use_reference,
)


def boundary_mlp(
    x: Tensor,
    masked_positions: Tensor,
    left_boundary: Tensor,
    right_boundary: Tensor,
    positions: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    norm1_weight: Tensor,
    norm1_bias: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    norm2_weight: Tensor,
    norm2_bias: Tensor,
    *,
    eps: float = 1e-12,
    max_rows: int | None = None,
    token_rows: Tensor | None = None,
    impl: Impl = "fused",
) -> Tensor | tuple[Tensor, Tensor]:
    """`y = f(x[left], x[right], positions[slot])` for every masked token with a span-boundary target.

    f is (Linear, exact GELU, LayerNorm) twice (paper section 2.2); the slot of a token counts from its span's
    first token: `masked_positions - left_boundary - 1`. Rows without a target cost nothing, the first Linear
    runs once per span and once per slot, and gradients that meet in one token are summed in a fixed order.

    Args:
        x: [B, L, H] encoder outputs, float64, float32, bfloat16 or float16.
        masked_positions: [B, K] int64 or int32, -1 where there is no token.
        left_boundary, right_boundary: [B, K], the positions s-1 and e+1 around each masked token's span; -1
            in both where the token has no target.
        positions: [S, P] table of relative positions.
        weight1: [E, 2H+P], columns in the order left, right, position.
        bias1, norm1_weight, norm1_bias: [E].
        weight2: [D, E].
        bias2, norm2_weight, norm2_bias: [D].
        eps: added to the variance in both LayerNorms.
        max_rows: a bound, known without asking the device, of how many tokens have a target; None: B*K. It
            sets the size of the matrix products on CUDA, where finding the number out would be a
            synchronisation. The CPU and the reference need no bound.
        token_rows: [R] int64 or int32, tokens of x as b*L + position, or -1. Another reader of rows of x gets
            them here, so that the operator writes x's gradient once for both; a token may come more than once.
        impl: "fused" or "reference" (plain PyTorch).

    Returns:
        [B, K, D] in x's dtype; zero in rows without a target, which take and give no gradient. With token_rows
        that and [R, H] in x's dtype: the tokens' rows, zero for -1.

    Raises:
        ValueError, TypeError, IndexError: naming the argument, what it was and what was expected. Parameters
            may differ from x in dtype under autocast only. CUDA reads elements of the indices for this under
            SPANBERT_EXT_DEBUG=1 only: without it, rows whose indices fit nothing, and the last rows where more
            have a target than max_rows says, become NaN and give no gradient.
        RuntimeError: on double backward, forward-mode differentiation and `torch.func.grad`, which this operator does
            not have; impl="reference" has them.
    """
    plain = use_reference(impl)
    parameters = {
        "positions": positions,
        "weight1": weight1,
        "bias1": bias1,
        "norm1_weight": norm1_weight,
        "norm1_bias": norm1_bias,
        "weight2": weight2,
        "bias2": bias2,
        "norm2_weight": norm2_weight,
        "norm2_bias": norm2_bias,
    }
    indices = {
        "masked_positions": masked_positions,
        "left_boundary": left_boundary,
        "right_boundary": right_boundary,
    }
    check_tensors("boundary_mlp", {"x": x, **indices, **parameters}, {"token_rows": token_rows})
    dtype = compute_dtype("boundary_mlp", x, parameters)
    eps = real("boundary_mlp: eps", eps)
    max_rows = None if max_rows is None else integer("boundary_mlp: max_rows", max_rows)
    if plain:
        given = {"x": x, **indices, **parameters, "token_rows": token_rows, "max_rows": max_rows}
        if not torch.compiler.is_compiling():
            _boundary_mlp_checks.check_arguments(given, dtype)
        if may_read_values(x):
            _boundary_mlp_checks.check_values(given)
        return reference.boundary_mlp(
            x, *indices.values(), *parameters.values(), eps=eps, max_rows=max_rows, token_rows=token_rows
        )
    require_kernels("boundary_mlp", "x", x)
    refuse_transforms("boundary_mlp", x=x, **parameters)
    y, rows, *_ = _OPS.boundary_mlp(
        x, *indices.values(), *parameters.values(), eps, dtype, max_rows, token_rows
    )
    return y if token_rows is None else (y, rows)


# The schemas are the lists of arguments; what follows goes by their names.
_OPS = torch.ops.spanbert_ext
_SCHEMA = _OPS.boundary_mlp.default._schema
_BACKWARD_SCHEMA = _OPS.boundary_mlp_backward.default._schema
_INPUTS, _OUTPUTS = names(_SCHEMA.arguments), names(_SCHEMA.returns)
_BACKWARD_INPUTS = names(_BACKWARD_SCHEMA.arguments)
_DIFFERENTIABLE = tuple(name.removeprefix("grad_") for name in names(_BACKWARD_SCHEMA.returns))
_PARAMETERS = tuple(name for name in _DIFFERENTIABLE if name != "x")
_LEFT_FOR_BACKWARD = tuple(name for name in _OUTPUTS if name in _BACKWARD_INPUTS)
_SAVED = tuple(
    argument.name
    for argument in _BACKWARD_SCHEMA.arguments
    if "Tensor" in str(argument.type) and argument.name in (*_INPUTS, *_OUTPUTS)
)


@torch.library.register_fake("spanbert_ext::boundary_mlp")
def _boundary_mlp_fake(*arguments: Any) -> tuple[Tensor, ...]:
    given = by_name(_SCHEMA, arguments)
    dtype, token_rows = given["compute_dtype"], given["token_rows"]
    expect_one_device("boundary_mlp", given)
    _boundary_mlp_checks.check_arguments(given, dtype)
    x, weight1, weight2 = given["x"], given["weight1"], given["weight2"]
    batch, targets = given["masked_positions"].shape
    inner, outer = weight1.shape[0], weight2.shape[0]

    def operand(weight: Tensor, columns: int) -> Tensor:
        return x.new_empty(_boundary_mlp_checks.operand_shape(weight, columns, dtype)[0], dtype=dtype)

    outputs = {
        "y": x.new_empty((batch, targets, outer)),
        "rows": x.new_empty((0 if token_rows is None else token_rows.shape[0], x.shape[2])),
        "z1": x.new_empty((batch * targets, inner), dtype=dtype),
        "z2": x.new_empty((batch * targets, outer), dtype=dtype),
        "statistics": x.new_empty((batch * targets, 4), dtype=accumulation_dtype(dtype)),
        "kept": x.new_empty((batch * targets,), dtype=torch.int64),
        "count": x.new_empty((1,), dtype=torch.int64),
        "weight1_operand": operand(weight1, _boundary_mlp_checks.padded_columns(weight1)),
        "weight2_operand": operand(weight2, inner),
    }
    return tuple(outputs[name] for name in _OUTPUTS)


@torch.library.register_fake("spanbert_ext::boundary_mlp_backward")
def _boundary_mlp_backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    given = by_name(_BACKWARD_SCHEMA, arguments)
    expect_one_device("boundary_mlp_backward", given)
    _boundary_mlp_checks.check_arguments(given, given["compute_dtype"])
    _boundary_mlp_checks.check_saved(given)
    needs = {name: given["need_x" if name == "x" else "need_parameters"] for name in _DIFFERENTIABLE}
    return tuple(given[name].new_empty(given[name].shape if need else (0,)) for name, need in needs.items())


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    values = by_name(_SCHEMA, inputs) | dict(zip(_OUTPUTS, output, strict=True))
    ctx.mark_non_differentiable(*(values[name] for name in _LEFT_FOR_BACKWARD))
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(values[name] for name in _SAVED))
    ctx.compute_dtype, ctx.max_rows = values["compute_dtype"], values["max_rows"]


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    refuse_double_backward("boundary_mlp")
    upstream = dict(zip(_OUTPUTS, grads, strict=True))
    wanted = wanted_inputs(ctx, _INPUTS)
    if upstream["y"] is None:
        wanted &= set() if upstream["rows"] is None else {"x"}
    gradients: dict[str, Tensor] = {}
    if wanted:
        results = _OPS.boundary_mlp_backward(
            grad_y=upstream["y"],
            grad_rows=upstream["rows"],
            **dict(zip(_SAVED, ctx.saved_tensors, strict=True)),
            compute_dtype=ctx.compute_dtype,
            need_x="x" in wanted,
            need_parameters=not wanted.isdisjoint(_PARAMETERS),
            max_rows=ctx.max_rows,
        )
        gradients = dict(zip(_DIFFERENTIABLE, results, strict=True))
    return tuple(gradients[name] if name in wanted else None for name in _INPUTS)


torch.library.register_autograd("spanbert_ext::boundary_mlp", _backward, setup_context=_setup_context)
