"""Vocabulary cross-entropy of stacked blocks of rows through one decoder matrix, logits never stored."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spanbert_ext.ops._common import (
    Impl,
    accumulation_dtype,
    check_devices,
    compute_dtype,
    may_read_values,
    require_kernels,
    use_reference,
)

_ROW_MULTIPLE = 128  # rows of a tile of the matrix products


class VocabCEOutput(NamedTuple):
    """What `vocab_ce` returns; only `loss` carries a gradient."""

    loss: Tensor  # [] sum(row_weight * nll)
    nll: Tensor  # [N] natural log; 0 where the target is negative
    prediction: Tensor  # [N] int64, arg max of the logits; -1 where the target is negative


def vocab_ce(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    row_weight: Tensor,
    *,
    first_rows: Sequence[int] = (0,),
    label_smoothing: float = 0.0,
    max_rows: int | None = None,
    impl: Impl = "fused",
) -> VocabCEOutput:
    """Cross-entropy of `h @ weight.T + bias` against `targets`, summed with a weight per row.

    Both heads of SpanBERT decode through the same matrix (paper section 2.2), so their rows are stacked and decoded
    once; `first_rows` says where each block begins and which row of `bias` it uses. The logits exist one chunk of
    rows at a time, and the gradients are made in the forward pass.

    Args:
        h: [N, D] hidden rows, float64, float32, bfloat16 or float16.
        weight: [V, D] decoder matrix; another dtype than h's is allowed under autocast.
        bias: [G, V], one row per block, or None.
        targets: [N] int64 ids below V; a negative one means no loss, no gradient.
        row_weight: [N] float32 (float64 for float64 h), e.g. 1/n for a mean; it may require a gradient.
        first_rows: ascending first rows of the G blocks, beginning with 0.
        label_smoothing: share of the target's probability spread over the vocabulary, as in
            `torch.nn.functional.cross_entropy`; in [0, 1).
        max_rows: an upper bound of the targets that are not negative, where the caller knows one without asking the
            device. CUDA makes no larger products than it says; the CPU counts by itself.
        impl: "fused" or "reference" (plain PyTorch).

    Returns:
        `VocabCEOutput(loss, nll, prediction)`; loss and nll are float32 (float64 for float64 h).

    Raises:
        ValueError, TypeError, IndexError: naming the argument, what it was and what was expected. On CUDA a target
            beyond V, or more targets than max_rows, makes the loss NaN instead, unless SPANBERT_EXT_DEBUG=1.
        RuntimeError: on double backward, which this operator does not have (nor forward-mode differentiation).
    """
    dtype = compute_dtype("vocab_ce", h, {"weight": weight, "bias": bias})
    check_devices("vocab_ce", "h", h, weight=weight, bias=bias, targets=targets, row_weight=row_weight)
    _check_finite(h, targets)
    if use_reference(impl):
        from spanbert_ext import reference

        return reference.vocab_ce(
            h, weight, bias, targets, row_weight, first_rows=first_rows, label_smoothing=label_smoothing
        )
    require_kernels("vocab_ce", h)
    grad = torch.is_grad_enabled()
    loss, nll, prediction, *_ = torch.ops.spanbert_ext.vocab_ce(
        h,
        weight,
        bias,
        list(first_rows),
        targets,
        row_weight,
        dtype,
        label_smoothing,
        max_rows,
        grad and h.requires_grad,
        grad and weight.requires_grad,
        grad and bias is not None and bias.requires_grad,
    )
    return VocabCEOutput(loss, nll, prediction)


def _check_finite(h: Tensor, targets: Tensor) -> None:
    """SPANBERT_EXT_DEBUG=1 raises where NaN would otherwise pass into the loss, for a GradScaler to see."""
    if os.environ.get("SPANBERT_EXT_DEBUG") != "1" or not may_read_values(h) or h.dim() != 2:
        return
    bad = (~h.isfinite().all(dim=1) & (targets >= 0)).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"vocab_ce: h has NaN or infinity in {len(bad)} of {len(h)} rows, first in row {bad[0]}"
        )


@torch.library.register_fake("spanbert_ext::vocab_ce")
def _vocab_ce_fake(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    first_rows: Sequence[int],
    targets: Tensor,
    row_weight: Tensor,
    compute_dtype: torch.dtype,
    label_smoothing: float,
    max_rows: int | None,
    need_dh: bool,
    need_dw: bool,
    need_db: bool,
) -> tuple[Tensor, ...]:
    n, width = h.shape
    # compact_capacity of csrc/vocab_ce/compact_capacity.h
    bound = n if max_rows is None else torch.sym_min(n, max_rows)
    capacity = (bound + _ROW_MULTIPLE - 1) // _ROW_MULTIPLE * _ROW_MULTIPLE
    acc = accumulation_dtype(compute_dtype)
    need_db = need_db and bias is not None
    bias_like = weight if bias is None else bias
    return (
        h.new_empty((), dtype=acc),
        h.new_empty((n,), dtype=acc),
        torch.empty_like(targets, memory_format=torch.contiguous_format),
        h.new_empty((), dtype=acc),
        h.new_empty((capacity, width) if need_dh else (0,), dtype=compute_dtype),
        torch.empty_like(targets, memory_format=torch.contiguous_format),
        weight.new_empty(weight.shape if need_dw else (0,)),
        bias_like.new_empty(bias_like.shape if need_db else (0,)),
    )


@torch.library.register_fake("spanbert_ext::vocab_ce_gradient_rows")
def _gradient_rows_fake(dh_rows: Tensor, slots: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return dh_rows.new_empty((slots.shape[0], dh_rows.shape[1]), dtype=dtype)


@torch.library.register_fake("spanbert_ext::vocab_ce_scale_")
def _scale_fake(gradient: Tensor, scale: Tensor) -> None:
    return None


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    h, *_, need_dh, need_dw, need_db = inputs
    _, nll, prediction, grad_unit, dh_rows, slots, dw, db = output
    ctx.mark_non_differentiable(nll, prediction, grad_unit, dh_rows, slots, dw, db)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(nll, grad_unit, dh_rows, slots, dw, db)
    ctx.h_dtype = h.dtype
    ctx.made = (need_dh, need_dw, need_db)
    ctx.inputs = len(inputs)


def _backward(ctx: Any, grad_loss: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        # The gradients were made in forward and are constants to autograd: a second derivative would be a silent zero.
        raise RuntimeError(
            "vocab_ce has no double backward (create_graph=True); use impl='reference' for second derivatives"
        )
    grads: list[Tensor | None] = [None] * ctx.inputs
    if grad_loss is None:
        return tuple(grads)
    nll, grad_unit, dh_rows, slots, dw, db = ctx.saved_tensors
    need_h, need_weight, need_bias, *_ = ctx.needs_input_grad
    if any(need and not made for need, made in zip((need_h, need_weight, need_bias), ctx.made, strict=True)):
        raise RuntimeError("vocab_ce: a wanted gradient was not made in forward (need_dh, need_dw, need_db)")
    scale = grad_loss * grad_unit
    if need_h:
        grads[0] = torch.ops.spanbert_ext.vocab_ce_gradient_rows(dh_rows, slots, scale, ctx.h_dtype)
    if need_weight:
        grads[1] = _scaled(dw, scale)
    if need_bias:
        grads[2] = _scaled(db, scale)
    if ctx.needs_input_grad[5]:  # row_weight
        grads[5] = grad_loss * nll
    return tuple(grads)


def _scaled(gradient: Tensor, scale: Tensor) -> Tensor:
    """gradient * scale, multiplied in float32 at least: a loss scale of 65536 is beyond float16.

    In place where this backward is the last one that can want the saved gradient: a second [V, D] buffer would be
    the peak of the whole step. Where scale is 1, as without a GradScaler, nothing is read or written then.
    """
    kept = torch._C._autograd._get_current_graph_task_keep_graph()
    # Inside a dispatch mode somebody traces this backward, and the trace may run for a graph that is kept.
    traced = torch._C._len_torch_dispatch_stack() > 0
    batched = torch._C._functorch.is_legacy_batchedtensor(scale) or torch._C._functorch.is_batchedtensor(
        scale
    )
    # A captured backward may be replayed twice for one forward.
    captured = scale.is_cuda and torch.cuda.is_current_stream_capturing()
    if kept or traced or batched or captured:
        return (gradient.to(scale.dtype) * scale).to(gradient.dtype)
    torch.ops.spanbert_ext.vocab_ce_scale_(gradient, scale)
    return gradient


torch.library.register_autograd("spanbert_ext::vocab_ce", _backward, setup_context=_setup_context)
