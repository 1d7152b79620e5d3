# SPDX-License-Identifier: Apache-2.0
"""Both heads' loss over encoder outputs: fused where the rule of `fused_path` allows it, else by calling modules."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spanbert_ext.models.fused_path import (
    global_hooks,
    not_exact,
    not_ordinary,
    not_readable,
    warn_once,
)
from spanbert_ext.models.known_modules import Known
from spanbert_ext.models.mlm_heads import MlmHead
from spanbert_ext.models.span_boundary_head import SpanBoundaryHead
from spanbert_ext.ops import (
    SpanPretrainingOutput,
    head_statistics,
    head_targets,
    span_pretraining_loss,
)
from spanbert_ext.ops._common import Impl, accumulation_dtype, may_read_values
from spanbert_ext.ops._span_pretraining_loss_checks import check_batch, count_targets
from spanbert_ext.ops.head_targets import count_tensor


class Heads(NamedTuple):
    """Both heads of a model, and why parts of them get whole sequences: a module's path and the reason, or None."""

    mlm: MlmHead
    sbo: nn.Module | None
    whole_mlm: tuple[str, str] | None  # the MLM head at once
    whole_transform: tuple[str, str] | None  # what lies before its decoder
    whole_sbo: tuple[str, str] | None

    @property
    def read_all_rows(self) -> bool:
        """Whether other rows of the encoder's output may be read than those at the index tensors."""
        return any(reason is not None for reason in (self.whole_mlm, self.whole_transform, self.whole_sbo))


def find_heads(model: Any, with_sbo: bool) -> Heads:
    """The heads of `model` as they are now: their modules may be replaced or wrapped at any time.

    Raises:
        ValueError: the model has no SBO, or no decoder for it.
    """
    mlm = model.head_shape.find(model)
    sbo = model.sbo if with_sbo else None
    if with_sbo and (sbo is None or mlm.decoder.module is None):
        missing = "sbo" if sbo is None else "decoder (get_output_embeddings)"
        raise ValueError(
            f"left_boundary and right_boundary are given, but the model has no {missing}, which predicts from them; "
            "without them the MLM head predicts alone"
        )
    watched = global_hooks()
    whole_mlm = whole_transform = whole_sbo = None
    # A decoder that is not torch's own may mix tokens or tell batch rows apart: it gets whole sequences too.
    for path, module, exact in (*mlm.around, mlm.decoder):
        reason = watched or not_exact(module, exact)
        if reason is not None and whole_mlm is None:
            whole_mlm = path, reason
    if whole_mlm is None:
        whole_transform = mlm.not_row_wise()
    if sbo is not None:
        reason = watched or not_exact(sbo, SpanBoundaryHead)
        whole_sbo = None if reason is None else ("sbo", reason)
    return Heads(mlm, sbo, whole_mlm, whole_transform, whole_sbo)


def head_loss(
    heads: Heads,
    x: Tensor,
    labels: Tensor,
    *indices: Tensor,
    sbo_weight: float | None,
    num_items_in_batch: Tensor | int | None = None,
    num_sbo_items: Tensor | int | None = None,
    label_smoothing: float = 0.0,
    max_rows: int | None = None,
    impl: Impl = "fused",
) -> SpanPretrainingOutput:
    """`ops.span_pretraining_loss` of a model's heads, whatever was done to their modules.

    Args:
        x: [B, L, H], with all rows where `heads.read_all_rows`.
        sbo_weight: as there; None: the loss is the MLM's alone, whatever the SBO's is.
        labels, indices, num_items_in_batch, num_sbo_items, label_smoothing, max_rows, impl: as there.
    """
    if sbo_weight is None:
        losses = head_loss(
            heads,
            x,
            labels,
            *indices,
            sbo_weight=0.0,
            num_items_in_batch=num_items_in_batch,
            num_sbo_items=num_sbo_items,
            label_smoothing=label_smoothing,
            max_rows=max_rows,
            impl=impl,
        )
        return _without_sbo(losses, num_items_in_batch) if heads.sbo is not None else losses
    options = {
        "sbo_weight": sbo_weight,
        "num_items_in_batch": num_items_in_batch,
        "num_sbo_items": num_sbo_items,
        "label_smoothing": label_smoothing,
        "max_rows": max_rows,
        "impl": impl,
    }
    mlm, sbo = heads.mlm, heads.sbo
    called = heads.whole_mlm
    if called is None:
        path, decoder, exact = mlm.decoder
        reason = not_readable(decoder, exact, x, needs_bias=False)
        called = None if reason is None else (path, reason)
    if called is not None:
        return _called_loss(called, heads, x, labels, *indices, **options)

    transform = mlm.transform
    boundary_rows, sbo_bias = sbo, None
    if sbo is not None and (heads.whole_transform is not None or _is_called(heads, x)):
        # before x is transformed, or by the plain signature
        h_sbo, sbo_bias = _call_sbo(heads, x, *indices, max_rows=max_rows, impl=impl)
        boundary_rows = _Given(h_sbo)
    elif sbo is not None:
        sbo_bias = sbo.bias
    if heads.whole_transform is not None:
        x, transform = _transform_all(heads, x), nn.Identity()
    return span_pretraining_loss(
        x,
        labels,
        *indices,
        transform=transform,
        weight=decoder.weight,
        bias=decoder.bias,
        boundary_rows=boundary_rows,
        sbo_bias=sbo_bias,
        **options,
    )


def _without_sbo(losses: SpanPretrainingOutput, num_items: Tensor | int | None) -> SpanPretrainingOutput:
    """The losses of a sum in which the SBO's weight is 0, which takes no loss away that is NaN or infinite."""
    mlm_loss = losses.mlm_loss
    if num_items is not None:
        items = num_items.clamp_min(1) if isinstance(num_items, Tensor) else max(1, num_items)
        mlm_loss = mlm_loss * losses.mlm_count / items
    return losses._replace(loss=losses.loss.where(losses.sbo_loss.isfinite(), mlm_loss))


class _Given:
    """Boundary rows that are there already, in the place of a module that makes them."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __call__(self, *indices: Tensor, **options: Any) -> Tensor:
        return self.rows


def _is_called(heads: Heads, x: Tensor) -> bool:
    """Whether the SBO is called by its plain signature: it is not known, or its bias is there in its forward alone."""
    return heads.whole_sbo is not None or not_ordinary("bias", heads.sbo.bias, x) is not None


def _call_sbo(
    heads: Heads, x: Tensor, *indices: Tensor, max_rows: int | None, impl: Impl
) -> tuple[Tensor, Tensor | None]:
    """[B, K, D] and the vocabulary bias [V], whatever the module has become."""
    sbo = heads.sbo
    if heads.whole_sbo is not None:
        warn_once(*heads.whole_sbo, "the encoder's last layer computes all rows")
    options = (
        {"max_rows": max_rows, "impl": impl} if heads.whole_sbo is None else {}
    )  # others may not take them
    bias = getattr(sbo, "bias", None)
    if bias is None or not_ordinary("bias", bias, x) is None:
        return sbo(x, *indices, **options), bias
    # Offloaded or sharded: the bias is what it should be while the module's forward runs.
    return sbo(x, *indices, with_bias=True, **options)


def _transform_all(heads: Heads, x: Tensor) -> Tensor:
    """[B, L, H] -> [B, L, D]."""
    warn_once(*heads.whole_transform, "it runs on all tokens, and so does the encoder's last layer")
    return heads.mlm.transform(x)


def _called_loss(
    called: tuple[str, str],
    heads: Heads,
    x: Tensor,
    labels: Tensor,
    masked_positions: Tensor,
    left_boundary: Tensor | None = None,
    right_boundary: Tensor | None = None,
    *,
    sbo_weight: float,
    num_items_in_batch: Tensor | int | None,
    num_sbo_items: Tensor | int | None,
    label_smoothing: float,
    max_rows: int | None,
    impl: Impl,
) -> SpanPretrainingOutput:
    """The same loss with the decoder called, and all logits of the rows that are predicted at once."""
    indices = (masked_positions, left_boundary, right_boundary)
    check_batch(x, labels, *indices)
    mlm, has_sbo = heads.mlm, left_boundary is not None
    acc = accumulation_dtype(x.dtype)
    mlm_rows = max_rows
    if may_read_values(labels):
        most = torch.iinfo(torch.int64).max
        mlm_rows = count_targets(labels, masked_positions, left_boundary, most, max_rows)
    rows = head_targets(
        labels,
        masked_positions,
        left_boundary,
        num_items=count_tensor(num_items_in_batch, labels, acc),
        num_sbo_items=count_tensor(num_sbo_items, labels, acc),
        sbo_weight=sbo_weight,
        dtype=acc,
        max_rows=mlm_rows,
        impl=impl,
    )
    tokens = rows.token_rows.clamp_min(0)  # [R]
    if heads.whole_mlm is not None:
        warn_once(
            *called,
            "the MLM head and the encoder's last layer compute all rows, and logits of all tokens exist",
        )
        logits = mlm.whole(x).flatten(0, 1)[tokens]  # [R, V]
    else:
        warn_once(*called, "it is called, and the logits of all predicted tokens exist at once")
        if heads.whole_transform is None:
            h = mlm.transform(x.flatten(0, 1)[tokens][None])[0]  # [R, D]
        else:
            h = _transform_all(heads, x).flatten(0, 1)[tokens]
        logits = mlm.decoder.module(h)  # [R, V]
    if has_sbo:
        of_sbo = sbo_logits(heads, x, *indices, max_rows=max_rows, impl=impl).flatten(0, 1)  # [B*K, V]
        logits = torch.cat([logits, of_sbo.to(logits.dtype)])
    targets = rows.targets  # [N]
    live, beyond = targets >= 0, targets >= logits.shape[1]
    if may_read_values(targets) and beyond.any():
        raise IndexError(
            f"labels has {int(targets.max())}, expected an id below V = {logits.shape[1]}, the decoder's width"
        )
    nll = F.cross_entropy(
        logits.to(acc),
        targets.where(live & ~beyond, -100),
        ignore_index=-100,
        reduction="none",
        label_smoothing=label_smoothing,
    ).masked_fill(beyond, torch.nan)  # [N]
    loss = (rows.row_weight.where(live, 0) * nll).sum()
    prediction = logits.detach().argmax(1).where(live, -1)
    found = head_statistics(nll.detach(), prediction, targets, rows.ranks, has_sbo=has_sbo, impl=impl)
    return SpanPretrainingOutput.of(loss, rows.counts, found)


def sbo_logits(
    heads: Heads, x: Tensor, *indices: Tensor, max_rows: int | None = None, impl: Impl = "fused"
) -> Tensor:
    """What the SBO predicts, [B, K, V], whatever was done to its modules and the decoder; of no meaning in dead rows.

    Args:
        x: [B, L, H] with all rows.
        indices: [B, K] each; see `SpanBoundaryHead.forward`.
    """
    h, bias = _call_sbo(heads, x, *indices, max_rows=max_rows, impl=impl)  # [B, K, D], [V]
    _, decoder, exact = heads.mlm.decoder
    if global_hooks() is None and not_readable(decoder, exact, x, needs_bias=False) is None:
        logits = F.linear(h, decoder.weight)
    else:
        _check_callable(heads.mlm.decoder, x)
        logits = _without_bias(decoder, h)
    if bias is None:
        return logits
    if bias.shape != logits.shape[2:]:
        raise ValueError(f"sbo_bias has shape {list(bias.shape)}, expected [V] = {list(logits.shape[2:])}")
    return logits + bias


def _check_callable(decoder: Known, x: Tensor) -> None:
    """Raises a RuntimeError where the decoder has its parameters in the forward of a module around it alone."""
    if not_exact(decoder.module, decoder.exact) is not None:
        return  # it may fetch them itself
    weight = decoder.module.weight
    if weight.device != x.device or hasattr(weight, "device_mesh"):
        reason = not_ordinary("weight", weight, x)
        raise RuntimeError(
            f"{decoder.path} {reason}, and no hooks of its own: the span-boundary head calls it without cls around "
            f"it. Shard or offload {decoder.path} as a module of its own, as by fully_shard before cls"
        )


def _without_bias(decoder: nn.Module, h: Tensor) -> Tensor:
    """What an affine module makes of [B, K, D], without its bias, which is what it makes of zeros: [B, K, V]."""
    out = decoder(torch.cat([h, h.new_zeros(h.shape[0], 1, h.shape[2])], dim=1))
    return out[:, :-1] - out[:, -1:]
