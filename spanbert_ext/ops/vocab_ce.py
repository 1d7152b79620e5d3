# SPDX-License-Identifier: Apache-2.0
"""Vocabulary cross-entropy of stacked groups of rows through one decoder matrix, logits never stored."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spanbert_ext import reference
from spanbert_ext.ops import _torch_internals, _vocab_ce_checks
from spanbert_ext.ops._autograd import (
    by_name,
    names,
    refuse_double_backward,
    refuse_transforms,
    requires_grad,
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
    shown,
    use_reference,
)
from spanbert_ext.reference.outputs import VocabCEOutput

_ROW_MULTIPLE = 128  # rows of a tile of the matrix products


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
    once; `first_rows` says where each group begins and which row of `bias` it uses. The logits exist one chunk of
    rows at a time, and the gradients are made in the forward pass.

    Args:
        h: [N, D] hidden rows, float64, float32, bfloat16 or float16.
        weight: [V, D] decoder matrix; another dtype than h's is allowed under autocast.
        bias: [G, V], one row per group, or None.
        targets: [N] int64 ids below V; a negative one means no loss, no gradient.
        row_weight: [N] float32 (float64 for float64 h), e.g. 1/n for a mean; it may require a gradient.
        first_rows: ascending first rows of the G groups, beginning with 0.
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
        RuntimeError: on double backward, forward-mode differentiation and `torch.func.grad`, which this operator does
            not have; impl="reference" has them.
    """
    plain = use_reference(impl)
    check_tensors(
        "vocab_ce",
        {"h": h, "weight": weight, "targets": targets, "row_weight": row_weight},
        {"bias": bias},
    )
    dtype = compute_dtype("vocab_ce", h, {"weight": weight, "bias": bias}, "h")
    first_rows = _as_first_rows(first_rows)
    label_smoothing = real("vocab_ce: label_smoothing", label_smoothing)
    max_rows = None if max_rows is None else integer("vocab_ce: max_rows", max_rows)
    _check_finite(h, targets)
    if plain:
        if not torch.compiler.is_compiling():
            _vocab_ce_checks.check_arguments(
                h, weight, bias, first_rows, targets, row_weight, dtype, label_smoothing, max_rows
            )
        if may_read_values(targets):
            _vocab_ce_checks.check_values(targets, weight.shape[0], max_rows)
        return reference.vocab_ce(
            h, weight, bias, targets, row_weight, first_rows=first_rows, label_smoothing=label_smoothing
        )
    require_kernels("vocab_ce", "h", h)
    refuse_transforms("vocab_ce", h=h, weight=weight, bias=bias, row_weight=row_weight)
    loss, nll, prediction, *_ = _OPS.vocab_ce(
        h,
        weight,
        bias,
        first_rows,
        targets,
        row_weight,
        dtype,
        label_smoothing,
        max_rows,
        requires_grad(h),
        requires_grad(weight),
        requires_grad(bias),
    )
    return VocabCEOutput(loss, nll, prediction)


def _as_first_rows(first_rows: Any) -> list[int]:
    if isinstance(first_rows, (str, bytes, Tensor)):
        raise TypeError(f"vocab_ce: first_rows is {shown(first_rows)}, expected a sequence of ints")
    try:
        rows = list(first_rows)
    except TypeError:
        raise TypeError(f"vocab_ce: first_rows is {shown(first_rows)}, expected a sequence of ints") from None
    return [integer(f"vocab_ce: first_rows[{g}]", row) for g, row in enumerate(rows)]


def _check_finite(h: Tensor, targets: Tensor) -> None:
    """SPANBERT_EXT_DEBUG=1 raises where NaN would otherwise pass into the loss, for a GradScaler to see."""
    if os.environ.get("SPANBERT_EXT_DEBUG") != "1" or not may_read_values(h) or h.dim() != 2:
        return
    if targets.shape != h.shape[:1]:
        return  # the operator refuses it
    bad = (~h.isfinite().all(dim=1) & (targets >= 0)).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"vocab_ce: h has NaN or infinity in {len(bad)} of {len(h)} rows, first in row {bad[0]}"
        )


# The schemas are the lists of arguments and results; what follows goes by their names.
_OPS = torch.ops.spanbert_ext
_SCHEMA = _OPS.vocab_ce.default._schema
_INPUTS, _OUTPUTS = names(_SCHEMA.arguments), names(_SCHEMA.returns)
# The gradient of h is kept for the compact rows alone: these outputs are what spreads it over the rows of h.
_COMPACT_GRADIENT = tuple(
    name for name in names(_OPS.vocab_ce_gradient_rows.default._schema.arguments) if name in _OUTPUTS
)
_SAVED = ("nll", "grad_unit", "dw", "db", *_COMPACT_GRADIENT)
_MADE_IF = {"h": "need_dh", "weight": "need_dw", "bias": "need_db"}


@torch.library.register_fake("spanbert_ext::vocab_ce")
def _vocab_ce_fake(*arguments: Any) -> tuple[Tensor, ...]:
    given = by_name(_SCHEMA, arguments)
    expect_one_device("vocab_ce", given)
    _vocab_ce_checks.check_arguments(*(given[name] for name in _INPUTS if not name.startswith("need_")))
    h, weight, bias, targets = (given[name] for name in ("h", "weight", "bias", "targets"))
    dtype, max_rows = given["compute_dtype"], given["max_rows"]
    n, width = h.shape
    # compact_capacity of csrc/vocab_ce/compact_capacity.h
    bound = n if max_rows is None else torch.sym_min(n, max_rows)
    capacity = (bound + _ROW_MULTIPLE - 1) // _ROW_MULTIPLE * _ROW_MULTIPLE
    acc = accumulation_dtype(dtype)
    need_db = given["need_db"] and bias is not None
    bias_like = weight if bias is None else bias
    # kept_gradient_dtype of csrc/common/dtypes.h
    dw_dtype, db_dtype = (
        torch.float32 if like.dtype == torch.float16 else like.dtype for like in (weight, bias_like)
    )
    return (
        h.new_empty((), dtype=acc),  # loss
        h.new_empty((n,), dtype=acc),  # nll
        torch.empty_like(targets, memory_format=torch.contiguous_format),  # prediction
        h.new_empty((), dtype=acc),  # grad_unit
        h.new_empty((capacity, width) if given["need_dh"] else (0,), dtype=dtype),  # dh_rows
        torch.empty_like(targets, memory_format=torch.contiguous_format),  # the compact row of each row
        weight.new_empty(weight.shape if given["need_dw"] else (0,), dtype=dw_dtype),  # dw
        bias_like.new_empty(bias_like.shape if need_db else (0,), dtype=db_dtype),  # db
    )


@torch.library.register_fake("spanbert_ext::vocab_ce_gradient_rows")
def _gradient_rows_fake(dh_rows: Tensor, compact_rows: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    expect_one_device(
        "vocab_ce_gradient_rows", {"dh_rows": dh_rows, "compact_rows": compact_rows, "scale": scale}
    )
    _vocab_ce_checks.check_gradient_rows(dh_rows, compact_rows, scale, dtype)
    return dh_rows.new_empty((compact_rows.shape[0], dh_rows.shape[1]), dtype=dtype)


@torch.library.register_fake("spanbert_ext::vocab_ce_scale_")
def _scale_fake(gradient: Tensor, scale: Tensor) -> None:
    expect_one_device("vocab_ce_scale_", {"gradient": gradient, "scale": scale})
    _vocab_ce_checks.check_scale("vocab_ce_scale_", gradient, scale)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    results = dict(zip(_OUTPUTS, output, strict=True))
    given = by_name(_SCHEMA, inputs)
    ctx.mark_non_differentiable(*(tensor for name, tensor in results.items() if name != "loss"))
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(results[name] for name in _SAVED))
    ctx.dtypes = {name: given[name].dtype for name in _MADE_IF if given[name] is not None}
    ctx.made = {name for name, need in _MADE_IF.items() if given[need]}


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    # The gradients were made in forward and are constants to autograd.
    refuse_double_backward("vocab_ce")
    grad_loss = dict(zip(_OUTPUTS, grads, strict=True))["loss"]
    wanted = wanted_inputs(ctx, _INPUTS) if grad_loss is not None else set()
    for name, need in _MADE_IF.items():
        if name in wanted and name not in ctx.made:
            raise RuntimeError(
                f"vocab_ce: the gradient of {name} is wanted and was not made in forward, where {need} was False"
            )
    gradients: dict[str, Tensor] = {}
    if wanted:
        saved = dict(zip(_SAVED, ctx.saved_tensors, strict=True))
        scale = grad_loss * saved["grad_unit"]
        if "h" in wanted:
            compact = (saved[name] for name in _COMPACT_GRADIENT)
            gradients["h"] = _OPS.vocab_ce_gradient_rows(*compact, scale, ctx.dtypes["h"])
        if "weight" in wanted:
            gradients["weight"] = _scaled(saved["dw"], scale, ctx.dtypes["weight"])
        if "bias" in wanted:
            gradients["bias"] = _scaled(saved["db"], scale, ctx.dtypes["bias"])
        if "row_weight" in wanted:
            gradients["row_weight"] = grad_loss * saved["nll"]
    return tuple(gradients.get(name) for name in _INPUTS)


def _scaled(gradient: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """gradient * scale in the parameter's dtype, multiplied in float32 at least: a loss scale may be beyond float16.

    In place where this backward is the last one that can read the saved gradient: a second [V, D] buffer would be
    the peak of the whole step. Where scale is 1, as without a GradScaler, nothing is read or written then.
    """
    kept = _torch_internals.backward_keeps_graph()
    # A dispatch mode records this backward, and the recording may run for a graph that is kept.
    traced = _torch_internals.in_dispatch_mode()
    batched = _torch_internals.is_batched(scale)
    # A captured backward may be replayed twice for one forward.
    captured = scale.is_cuda and torch.cuda.is_current_stream_capturing()
    # A hook on saved tensors may leave any layout.
    if kept or traced or batched or captured or not gradient.is_contiguous():
        return (gradient.to(scale.dtype) * scale).to(dtype)
    _OPS.vocab_ce_scale_(gradient, scale)
    return gradient.to(dtype)


torch.library.register_autograd("spanbert_ext::vocab_ce", _backward, setup_context=_setup_context)
