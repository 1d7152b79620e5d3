# SPDX-License-Identifier: Apache-2.0
"""What `head_targets` and `head_statistics` refuse, for the fake kernels and the reference.

csrc/head_targets/head_targets_checks.cpp has the same rules.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spanbert_ext.ops._common import expect, expect_dim, expect_dtype, expect_shape

_NO_ID = 2**63 - 1  # on CUDA the target of a position beyond the row


def check_arguments(
    labels: Tensor,
    masked_positions: Tensor,
    left_boundary: Tensor | None,
    num_items: Tensor | None,
    num_sbo_items: Tensor | None,
    dtype: torch.dtype,
    max_rows: int | None,
) -> None:
    """Shapes, dtypes and options of `head_targets`; no element is read."""
    op = "head_targets"
    expect_dim(op, "labels", labels, "[B, L]")
    expect_dim(op, "masked_positions", masked_positions, "[B, K]")
    batch, width = masked_positions.shape
    expect(
        batch == labels.shape[0],
        ValueError,
        lambda: (
            f"{op}: masked_positions has shape {list(masked_positions.shape)}, expected [{labels.shape[0]}, K]"
        ),
    )
    expect_dtype(op, "labels", labels, torch.int64)
    expect_dtype(op, "masked_positions", masked_positions, torch.int64)
    if left_boundary is not None:
        expect_shape(op, "left_boundary", left_boundary, (batch, width), "[B, K]")
        expect_dtype(op, "left_boundary", left_boundary, torch.int64)
    expect(
        dtype in (torch.float32, torch.float64),
        TypeError,
        lambda: f"{op}: dtype is {dtype}, expected torch.float32 or torch.float64",
    )
    for name, count in (("num_items", num_items), ("num_sbo_items", num_sbo_items)):
        if count is not None:
            expect(
                count.numel() == 1 and count.dtype == dtype,
                ValueError,
                lambda name=name, count=count: (
                    f"{op}: {name} has shape {list(count.shape)} and dtype {count.dtype}, expected one value of {dtype}"
                ),
            )
    if max_rows is not None:
        expect(max_rows >= 0, ValueError, lambda: f"{op}: max_rows is {max_rows}, expected a number of rows")


def check_values(labels: Tensor, masked_positions: Tensor, max_rows: int | None) -> None:
    """Raises IndexError for a position beyond L, ValueError for more rows with a label than max_rows."""
    length = labels.shape[1]
    beyond = masked_positions[masked_positions >= length]
    if len(beyond):
        raise IndexError(
            f"head_targets: masked_positions has {int(beyond[0])}, expected positions below L = {length}"
        )
    if length == 0:
        return
    ids = labels.gather(1, masked_positions.clamp_min(0)).where(masked_positions >= 0, -1)
    if bool((ids == _NO_ID).any()):
        raise IndexError(f"head_targets: labels has {_NO_ID} at a masked position, expected an id below it")
    if max_rows is not None and int((ids >= 0).sum()) > max_rows:
        raise ValueError(
            f"head_targets: max_rows is {max_rows}, but more masked positions have a label; expected an upper "
            "bound of their number"
        )


def check_statistics(nll: Tensor, prediction: Tensor, targets: Tensor, ranks: Tensor, has_sbo: bool) -> None:
    """Shapes and dtypes of `head_statistics`."""
    op = "head_statistics"
    expect_dim(op, "ranks", ranks, "[B, K]")
    expect_dim(op, "targets", targets, "[N]")
    for name, tensor in (("ranks", ranks), ("targets", targets), ("prediction", prediction)):
        expect_dtype(op, name, tensor, torch.int64)
    for name, tensor in (("prediction", prediction), ("nll", nll)):
        expect_shape(op, name, tensor, tuple(targets.shape), "[N]")
    expect_dtype(op, "nll", nll, torch.float32, torch.float64)
    if has_sbo:
        expect(
            targets.shape[0] >= ranks.shape[0] * ranks.shape[1],
            ValueError,
            lambda: (
                f"{op}: targets has shape {list(targets.shape)}, expected at least B * K = {ranks.numel()} entries "
                "with has_sbo"
            ),
        )
