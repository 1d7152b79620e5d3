"""The span-boundary head: two fused layers over [left token | right token | position], never concatenated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spanbert_ext.ops._common import (
    Impl,
    accumulation_dtype,
    check_devices,
    compute_dtype,
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
    impl: Impl = "fused",
) -> Tensor:
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
        impl: "fused" or "reference" (plain PyTorch).

    Returns:
        [B, K, D] in x's dtype; zero in rows without a target, which take and give no gradient.

    Raises:
        ValueError, TypeError, IndexError: naming the argument, what it was and what was expected. Parameters
            may differ from x in dtype under autocast only. CUDA reads elements of the indices for this under
            SPANBERT_EXT_DEBUG=1 only: without it, rows whose indices fit nothing, and the last rows where more
            have a target than max_rows says, become NaN and give no gradient.
        RuntimeError: on double backward, which this operator does not have.
    """
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
    dtype = compute_dtype("boundary_mlp", x, parameters)
    check_devices("boundary_mlp", "x", x, **indices, **parameters)
    if use_reference(impl):
        from spanbert_ext import reference

        return reference.boundary_mlp(x, *indices.values(), *parameters.values(), eps=eps, max_rows=max_rows)
    require_kernels("boundary_mlp", x)
    return torch.ops.spanbert_ext.boundary_mlp(
        x, *indices.values(), *parameters.values(), eps, dtype, max_rows
    )[0]


@torch.library.register_fake("spanbert_ext::boundary_mlp")
def _boundary_mlp_fake(
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
    eps: float,
    compute_dtype: torch.dtype,
    max_rows: int | None = None,
) -> tuple[Tensor, ...]:
    batch, targets = masked_positions.shape
    inner, outer = weight1.shape[0], weight2.shape[0]
    return (
        x.new_empty((batch, targets, outer)),
        x.new_empty((batch * targets, inner), dtype=compute_dtype),
        x.new_empty((batch * targets, outer), dtype=compute_dtype),
        x.new_empty((batch * targets, 4), dtype=accumulation_dtype(compute_dtype)),
    )


@torch.library.register_fake("spanbert_ext::boundary_mlp_backward")
def _boundary_mlp_backward_fake(
    grad_y: Tensor,
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
    z1: Tensor,
    z2: Tensor,
    statistics: Tensor,
    compute_dtype: torch.dtype,
    need_x: bool,
    need_parameters: bool,
    max_rows: int | None = None,
) -> tuple[Tensor, ...]:
    parameters = (
        positions,
        weight1,
        bias1,
        norm1_weight,
        norm1_bias,
        weight2,
        bias2,
        norm2_weight,
        norm2_bias,
    )
    return (
        x.new_empty(x.shape if need_x else (0,)),
        *(parameter.new_empty(parameter.shape if need_parameters else (0,)) for parameter in parameters),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, z1, z2, statistics = output
    ctx.mark_non_differentiable(z1, z2, statistics)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:13], z1, z2, statistics)
    ctx.compute_dtype, ctx.max_rows = inputs[14:]


def _backward(ctx: Any, grad_y: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        # The backward operator is opaque to autograd: a second derivative would be a silent zero.
        raise RuntimeError(
            "boundary_mlp has no double backward (create_graph=True);"
            " use impl='reference' for second derivatives"
        )
    if grad_y is None:
        return (None,) * 16
    need_x, need_parameters = ctx.needs_input_grad[0], ctx.needs_input_grad[4:13]
    grad_x, *grad_parameters = torch.ops.spanbert_ext.boundary_mlp_backward(
        grad_y, *ctx.saved_tensors, ctx.compute_dtype, need_x, any(need_parameters), ctx.max_rows
    )
    return (
        grad_x if need_x else None,
        None,
        None,
        None,
        *(grad if need else None for grad, need in zip(grad_parameters, need_parameters, strict=True)),
        None,
        None,
        None,
    )


torch.library.register_autograd("spanbert_ext::boundary_mlp", _backward, setup_context=_setup_context)
