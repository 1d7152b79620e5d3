# SPDX-License-Identifier: Apache-2.0
"""What `vocab_ce` refuses, for the fake kernels and the reference.

csrc/vocab_ce/vocab_ce_checks.cpp has the same rules.
"""

from __future__ import annotations

from collections.abc import Sequence

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

_OP = "vocab_ce"


def check_arguments(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    first_rows: Sequence[int],
    targets: Tensor,
    row_weight: Tensor,
    compute_dtype: torch.dtype,
    label_smoothing: float,
    max_rows: int | None,
) -> None:
    """Shapes, dtypes and options; no element is read."""
    expect_dim(_OP, "h", h, "[N, D]")
    expect_dim(_OP, "weight", weight, "[V, D]")
    rows, width = h.shape
    vocab = weight.shape[0]
    expect(
        vocab > 0,
        ValueError,
        lambda: f"{_OP}: weight has shape {list(weight.shape)}, expected [V, D] with V > 0",
    )
    expect(
        weight.shape[1] == width,
        ValueError,
        lambda: (
            f"{_OP}: weight has shape {list(weight.shape)} and h has shape {list(h.shape)}, expected the same D (last "
            "dimension) in both"
        ),
    )
    expect_floating(_OP, "h", h, compute_dtype)
    expect_floating(_OP, "weight", weight, compute_dtype)
    _check_first_rows(first_rows, rows)
    if bias is not None:
        expect_shape(_OP, "bias", bias, (len(first_rows), vocab), "[G, V]")
        expect_floating(_OP, "bias", bias, compute_dtype)
    expect_shape(_OP, "targets", targets, (rows,), "[N]")
    expect_dtype(_OP, "targets", targets, torch.int64)
    expect_shape(_OP, "row_weight", row_weight, (rows,), "[N]")
    expect_dtype(_OP, "row_weight", row_weight, accumulation_dtype(compute_dtype))
    check_label_smoothing(_OP, label_smoothing)
    if max_rows is not None:
        expect(max_rows >= 0, ValueError, lambda: f"{_OP}: max_rows is {max_rows}, expected a number of rows")


def check_label_smoothing(op: str, value: float) -> None:
    """Raises ValueError outside [0, 1)."""
    expect(
        0 <= value < 1,
        ValueError,
        lambda: f"{op}: label_smoothing is {value}, expected 0 <= label_smoothing < 1",
    )


def _check_first_rows(first_rows: Sequence[int], rows: int) -> None:
    def message() -> str:
        return (
            f"{_OP}: first_rows is {list(first_rows)}, expected the first row of each group, starting with 0, "
            f"ascending, none beyond the {rows} rows of h"
        )

    expect(len(first_rows) > 0, ValueError, message)
    expect(first_rows[0] == 0, ValueError, message)
    for first, second in zip(first_rows, [*first_rows[1:], rows], strict=True):
        expect(first <= second, ValueError, message)


def check_values(targets: Tensor, vocab: int, max_rows: int | None) -> None:
    """Raises IndexError for a target beyond V, ValueError for more targets than max_rows."""
    bad = (targets >= vocab).nonzero()
    if len(bad):
        row = int(bad[0])
        raise IndexError(
            f"{_OP}: targets[{row}] is {int(targets[row])}, expected an id below V = {vocab} (or a negative one, "
            "which is ignored)"
        )
    if max_rows is not None:
        live = int((targets >= 0).sum())
        if live > max_rows:
            raise ValueError(
                f"{_OP}: max_rows is {max_rows}, but {live} targets are not negative; expected an upper bound of their "
                "number"
            )


def check_gradient_rows(dh_rows: Tensor, compact_rows: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
    """As the operator that spreads the compact rows of h's gradient."""
    op = "vocab_ce_gradient_rows"
    expect_dim(op, "dh_rows", dh_rows, "[R, D]")
    expect_floating(op, "dh_rows", dh_rows, dtype)
    expect_dim(op, "compact_rows", compact_rows, "[N]")
    expect_dtype(op, "compact_rows", compact_rows, torch.int64)
    check_scale(op, dh_rows, scale)


def check_scale(op: str, gradient: Tensor, scale: Tensor) -> None:
    """One value, of the dtype in which gradients of this dtype are summed."""
    expect_floating(op, "gradient", gradient, gradient.dtype)
    accumulate = accumulation_dtype(gradient.dtype)
    expect(
        scale.dim() == 0 and scale.dtype == accumulate,
        ValueError,
        lambda: (
            f"{op}: scale has shape {list(scale.shape)} and dtype {scale.dtype}, expected [] and {accumulate}"
        ),
    )
