# SPDX-License-Identifier: Apache-2.0
"""What `span_pretraining_loss` refuses: its own arguments, and what the caller's two functions return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from spanbert_ext.ops._common import check_tensors, compute_dtype, shown

_OP = "span_pretraining_loss"


def check_batch(
    x: Tensor,
    labels: Tensor,
    masked_positions: Tensor,
    left_boundary: Tensor | None,
    right_boundary: Tensor | None,
    **head_tensors: Tensor | None,
) -> None:
    """Raises TypeError or ValueError by types, dtypes, devices and shapes; no element is read.

    Args:
        head_tensors: others that must lie on x's device.
    """
    indices = {
        "labels": labels,
        "masked_positions": masked_positions,
        "left_boundary": left_boundary,
        "right_boundary": right_boundary,
    }
    if (left_boundary is None) != (right_boundary is None):
        raise ValueError(
            f"{_OP}: left_boundary and right_boundary go together: one is None, the other is not"
        )
    required = {"x": x, "labels": labels, "masked_positions": masked_positions}
    check_tensors(
        _OP, required, {"left_boundary": left_boundary, "right_boundary": right_boundary, **head_tensors}
    )
    if x.dim() != 3:
        raise ValueError(f"{_OP}: x has shape {list(x.shape)}, expected [B, L, H]")
    if labels.shape != x.shape[:2]:
        raise ValueError(f"{_OP}: labels has shape {list(labels.shape)}, expected {list(x.shape[:2])} as x")
    if masked_positions.dim() != 2 or masked_positions.shape[0] != x.shape[0]:
        raise ValueError(
            f"{_OP}: masked_positions has shape {list(masked_positions.shape)}, expected [{x.shape[0]}, K]: one row "
            "per row of x"
        )
    if x.shape[1] == 0 and masked_positions.numel() > 0:
        raise ValueError(
            f"{_OP}: x has shape {list(x.shape)}, expected tokens (L > 0) where positions are masked"
        )
    for name, index in indices.items():
        if index is None:
            continue
        if index.dtype != torch.int64:
            raise TypeError(f"{_OP}: {name} has dtype {index.dtype}, expected int64")
        if name != "labels" and index.shape != masked_positions.shape:
            raise ValueError(
                f"{_OP}: {name} has shape {list(index.shape)}, expected {list(masked_positions.shape)} as "
                "masked_positions"
            )


def check_decoder(weight: Any, bias: Tensor | None, sbo_bias: Tensor | None) -> None:
    """Raises TypeError or ValueError unless weight is [V, D] and each bias [V] or None."""
    check_tensors(_OP, {"weight": weight})
    if weight.dim() != 2:
        raise ValueError(f"{_OP}: weight has shape {list(weight.shape)}, expected [V, D]")
    for name, head_bias in (("bias", bias), ("sbo_bias", sbo_bias)):
        if head_bias is not None and head_bias.shape != weight.shape[:1]:
            raise ValueError(
                f"{_OP}: {name} has shape {list(head_bias.shape)}, expected [V] = {list(weight.shape[:1])}"
            )


def check_functions(transform: Any, boundary_rows: Any, has_sbo: bool) -> None:
    """Raises TypeError for what cannot be called, ValueError where boundaries have no head."""
    if not callable(transform):
        raise TypeError(f"{_OP}: transform is {shown(transform)}, expected a function of [..., H]")
    if has_sbo and boundary_rows is None:
        raise ValueError(
            f"{_OP}: boundary_rows is None, expected a SpanBoundaryHead when boundaries are given"
        )
    if boundary_rows is not None and not callable(boundary_rows):
        raise TypeError(
            f"{_OP}: boundary_rows is {shown(boundary_rows)}, expected a SpanBoundaryHead or a function"
        )


def check_one_value(name: str, value: Tensor, device: torch.device) -> None:
    """Raises TypeError or ValueError unless the tensor is one real number, on the CPU or on the device."""
    check_tensors(_OP, {name: value})
    if value.numel() != 1:
        raise ValueError(f"{_OP}: {name} has shape {list(value.shape)}, expected one value")
    if value.dtype == torch.bool or value.is_complex():
        raise TypeError(f"{_OP}: {name} has dtype {value.dtype}, expected a real number")
    if value.device != device and value.device.type != "cpu":
        raise ValueError(f"{_OP}: {name} is on {value.device}, expected {device} as x, or cpu")


def count_targets(
    labels: Tensor, masked_positions: Tensor, left_boundary: Tensor | None, vocab: int, max_rows: int | None
) -> int:
    """How many masked positions have a label, where that costs no synchronisation.

    Raises:
        IndexError: a masked position outside the row, or a label there beyond V.
        ValueError: more of them than max_rows, or more that have boundaries.
    """
    if masked_positions.numel() == 0:
        return 0
    length = labels.shape[1]
    low, high = (int(value) for value in masked_positions.aminmax())
    if low < -1 or high >= length:
        raise IndexError(
            f"{_OP}: masked_positions has values from {low} to {high}, expected -1 (no token) or a position below L = "
            f"{length}"
        )
    ids = labels.gather(1, masked_positions.clamp_min(0)).where(masked_positions >= 0, -1)  # [B, K]
    if (most := int(ids.max())) >= vocab:
        raise IndexError(f"{_OP}: labels has {most} at a masked position, expected an id below V = {vocab}")
    count = int((ids >= 0).sum())
    if max_rows is None:
        return count
    having = {"a label": count}
    if left_boundary is not None:
        having["boundaries"] = int((left_boundary >= 0).sum())
    for what, found in having.items():
        if found > max_rows:
            raise ValueError(
                f"{_OP}: max_rows is {max_rows}, expected at least {found}, the masked positions that have {what}"
            )
    return count


def checked_transform(transform: Callable[[Tensor], Tensor], weight: Tensor) -> Callable[[Tensor], Tensor]:
    """The function, which raises TypeError or ValueError for a result that the decoder does not take."""

    def checked(rows: Tensor) -> Tensor:
        result = transform(rows)
        expected = (1, rows.shape[1], weight.shape[1])
        _check_result("transform", result, expected, "[1, R, D]", rows.device)
        dtype = compute_dtype(_OP, result, {"weight": weight}, "the result of transform")
        given = compute_dtype(_OP, rows, {})
        if (dtype == torch.float64) != (given == torch.float64):
            raise TypeError(
                f"{_OP}: transform returned {dtype} for rows of x in {given}, expected both or neither to be float64"
            )
        return result

    return checked


class CheckedBoundaryRows:
    """The caller's `boundary_rows`, which raises TypeError or ValueError for a result of another shape."""

    def __init__(self, boundary_rows: Callable[..., Any], width: int) -> None:
        self.boundary_rows, self.width = boundary_rows, width
        self.gives_token_rows = bool(getattr(boundary_rows, "gives_token_rows", False))

    def __call__(self, x: Tensor, masked_positions: Tensor, *boundaries: Tensor, **options: Any) -> Any:
        result = self.boundary_rows(x, masked_positions, *boundaries, **options)
        rows = result
        if self.gives_token_rows:
            if not isinstance(result, tuple) or len(result) != 2:
                raise TypeError(
                    f"{_OP}: boundary_rows returned {shown(result)}, expected a pair, as it has gives_token_rows"
                )
            rows, of_tokens = result
            expected = (options["token_rows"].shape[0], x.shape[2])
            _check_result("boundary_rows", of_tokens, expected, "[R, H]", x.device)
        _check_result("boundary_rows", rows, (*masked_positions.shape, self.width), "[B, K, D]", x.device)
        return result


def _check_result(
    name: str, result: Any, expected: tuple[int, ...], dimensions: str, device: torch.device
) -> None:
    if not isinstance(result, Tensor):
        raise TypeError(f"{_OP}: {name} returned {shown(result)}, expected a tensor {dimensions}")
    if result.shape != expected or result.device != device:
        raise ValueError(
            f"{_OP}: {name} returned shape {list(result.shape)} on {result.device}, expected {dimensions} = "
            f"{list(expected)} on {device}"
        )
    if not result.is_floating_point():
        raise TypeError(f"{_OP}: {name} returned dtype {result.dtype}, expected a floating one")
