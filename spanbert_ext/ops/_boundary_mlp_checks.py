# SPDX-License-Identifier: Apache-2.0
"""What `boundary_mlp` refuses, for the fake kernels and the reference.

csrc/boundary_mlp/boundary_rows.cpp has the same rules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spanbert_ext.ops._common import (
    accumulation_dtype,
    expect,
    expect_dim,
    expect_dtype,
    expect_floating,
    expect_shape,
)

_OP = "boundary_mlp"
_DIMENSIONS = {
    "x": "[B, L, H]",
    "masked_positions": "[B, K]",
    "positions": "[S, P]",
    "weight1": "[E, 2H+P]",
    "weight2": "[D, E]",
}


def check_arguments(given: dict[str, Any], compute_dtype: torch.dtype) -> None:
    """Shapes, dtypes and the bound of a forward or backward call, by the names of its arguments."""
    for name, dimensions in _DIMENSIONS.items():
        expect_dim(_OP, name, given[name], dimensions)
    (batch, _, hidden), (_, width) = given["x"].shape, given["masked_positions"].shape
    inner, outer = given["weight1"].shape[0], given["weight2"].shape[0]
    columns = 2 * hidden + given["positions"].shape[1]
    shapes = {
        "weight1": ((inner, columns), "[E, 2H+P]"),
        "weight2": ((outer, inner), "[D, E]"),
        "bias1": ((inner,), "[E]"),
        "norm1_weight": ((inner,), "[E]"),
        "norm1_bias": ((inner,), "[E]"),
        "bias2": ((outer,), "[D]"),
        "norm2_weight": ((outer,), "[D]"),
        "norm2_bias": ((outer,), "[D]"),
    }
    for name, (shape, dimensions) in shapes.items():
        expect_shape(_OP, name, given[name], shape, dimensions)
    for name in ("masked_positions", "left_boundary", "right_boundary"):
        expect_dtype(_OP, name, given[name], torch.int64, torch.int32)
        expect_shape(_OP, name, given[name], (batch, width), "[B, K]")
    for name in ("x", "positions", *shapes):
        expect_floating(_OP, name, given[name], compute_dtype)
    if given["token_rows"] is not None:
        expect_dim(_OP, "token_rows", given["token_rows"], "[R]")
        expect_dtype(_OP, "token_rows", given["token_rows"], torch.int64, torch.int32)
    max_rows = given["max_rows"]
    if max_rows is not None:
        expect(max_rows >= 0, ValueError, lambda: f"{_OP}: max_rows is {max_rows}, expected at least 0")


def check_saved(given: dict[str, Any]) -> None:
    """What backward takes beside the arguments of forward: gradients, and what forward kept."""
    x, weight1, weight2, compute = (given[name] for name in ("x", "weight1", "weight2", "compute_dtype"))
    (batch, _, hidden), (_, width) = x.shape, given["masked_positions"].shape
    inner, outer, total = weight1.shape[0], weight2.shape[0], batch * width
    rows = 0 if given["token_rows"] is None else given["token_rows"].shape[0]
    expected = {
        "grad_y": ((batch, width, outer), "[B, K, D]", x.dtype),
        "grad_rows": ((rows, hidden), "[R, H]", x.dtype),
        "z1": ((total, inner), "[B*K, E]", compute),
        "z2": ((total, outer), "[B*K, D]", compute),
        "statistics": ((total, 4), "[B*K, 4]", accumulation_dtype(compute)),
        "kept": ((total,), "[B*K]", torch.int64),
        "count": ((1,), "[1]", torch.int64),
        "weight1_operand": (*operand_shape(weight1, padded_columns(weight1), compute), compute),
        "weight2_operand": (*operand_shape(weight2, inner, compute), compute),
    }
    for name, (shape, dimensions, dtype) in expected.items():
        if given[name] is None:  # one of the gradients
            continue
        expect_dtype(_OP, name, given[name], dtype)
        expect_shape(_OP, name, given[name], shape, dimensions)
    expect(
        given["grad_y"] is not None or not given["need_parameters"],
        ValueError,
        lambda: f"{_OP}: grad_y is None, expected a tensor, as need_parameters is true",
    )


def padded_columns(weight1: Tensor) -> int:
    """Columns of the first weight's operand: whole 16-byte units of a 16-bit dtype, see boundary_rows.h in csrc."""
    return (weight1.shape[1] + 7) // 8 * 8


def operand_shape(weight: Tensor, columns: int, dtype: torch.dtype) -> tuple[tuple[int, ...], str]:
    """The shape of a weight's operand, empty where the weight itself is one, and what it is in letters."""
    if weight.dtype == dtype and weight.shape[1] == columns:
        return (0,), "[0]"
    return (weight.shape[0], columns), "the weight's shape, padded"


def check_values(given: dict[str, Any]) -> None:
    """The rules for each entry of the indices; the first entry that breaks one is named."""
    length, slots = given["x"].shape[1], given["positions"].shape[0]
    names = ("masked_positions", "left_boundary", "right_boundary")
    masked, left, right = (given[name].long() for name in names)

    def refuse(bad: Tensor, error: type[Exception], message: str) -> None:
        where = bad.nonzero()
        if len(where):
            b, k = where[0].tolist()
            values = {"b": b, "k": k, "m": int(masked[b, k]), "l": int(left[b, k]), "r": int(right[b, k])}
            raise error(f"{_OP}: {message.format(**values)}")

    for name, index, letter in zip(names, (masked, left, right), "mlr", strict=True):
        refuse(
            (index < -1) | (index >= length),
            IndexError,
            f"{name}[{{b}}, {{k}}] is {{{letter}}}, expected -1 or a position in [0, {length})",
        )
    refuse(
        (left < 0) != (right < 0),
        ValueError,
        "left_boundary[{b}, {k}] is {l} and right_boundary[{b}, {k}] is {r}, expected two positions, or -1 in both for "
        "a row without a target",
    )
    live = left >= 0
    refuse(
        live & ~((left < masked) & (masked < right)),
        ValueError,
        "masked_positions[{b}, {k}] is {m}, expected a position between left_boundary {l} and right_boundary {r}",
    )
    refuse(
        live & (masked - left - 1 >= slots),
        IndexError,
        "masked_positions[{b}, {k}] = {m} lies in a position slot too far behind left_boundary {l}, expected a slot in "
        f"[0, {slots}), the rows of positions",
    )
    max_rows, count = given["max_rows"], int(live.sum())
    if max_rows is not None and count > max_rows:
        raise ValueError(
            f"{_OP}: max_rows is {max_rows}, expected at least {count}, the rows that have a target"
        )
    token_rows = given["token_rows"]
    if token_rows is not None:
        tokens = given["x"].shape[0] * length
        bad = ((token_rows < -1) | (token_rows >= tokens)).nonzero()
        if len(bad):
            row = int(bad[0])
            raise IndexError(
                f"{_OP}: token_rows[{row}] is {int(token_rows[row])}, expected -1 or a token in [0, B*L) = "
                f"[0, {tokens})"
            )
