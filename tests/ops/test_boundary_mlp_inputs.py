# SPDX-License-Identifier: Apache-2.0
"""What `boundary_mlp` refuses, and how it says so."""

from __future__ import annotations

import pytest
import torch
from boundary_samples import PARAMETERS, Sample, on_every_device, small
from torch import Tensor


def changed(**tensors: Tensor) -> Sample:
    return Sample(**{**vars(small()), **tensors})


def with_entry(name: str, row: int, k: int, value: int) -> Sample:
    tensor = getattr(small(), name).clone()
    tensor[row, k] = value
    return changed(**{name: tensor})


BAD = {
    "position_past_the_row": (
        lambda: with_entry("masked_positions", 1, 4, 9),
        IndexError,
        r"masked_positions\[1, 4\] is 9; expected -1 or a position in \[0, 9\)",
    ),
    "left_negative": (
        lambda: with_entry("left_boundary", 0, 1, -2),
        IndexError,
        r"left_boundary\[0, 1\] is -2",
    ),
    "right_past_the_row": (
        lambda: with_entry("right_boundary", 1, 0, 9),
        IndexError,
        r"right_boundary\[1, 0\] is 9",
    ),
    "one_side": (
        lambda: with_entry("right_boundary", 0, 0, -1),
        ValueError,
        r"left_boundary\[0, 0\] is 0 and right",
    ),
    "other_side": (lambda: with_entry("left_boundary", 0, 0, -1), ValueError, r"right_boundary\[0, 0\] is 3"),
    "outside_its_span": (
        lambda: with_entry("masked_positions", 0, 0, 7),
        ValueError,
        r"masked_positions\[0, 0\] is 7; expected a position between left_boundary 0 and right_boundary 3",
    ),
    "target_without_token": (lambda: with_entry("masked_positions", 0, 0, -1), ValueError, r"\[0, 0\] is -1"),
    "past_the_slots": (
        lambda: changed(positions=small().positions[:1]),
        IndexError,
        r"masked_positions\[0, 1\] = 2 lies in position slot 1 .* expected a slot in \[0, 1\)",
    ),
    "x_dims": (lambda: changed(x=small().x[0]), ValueError, r"x has shape \[9, 3\]; expected \[B, L, H\]"),
    "batch": (lambda: changed(x=small().x[:1]), ValueError, r"masked_positions has shape \[2, 5\].*\[1, 5\]"),
    "widths_differ": (
        lambda: changed(left_boundary=small().left_boundary[:, :4]),
        ValueError,
        r"left_boundary has shape \[2, 4\]; expected \[B, K\] = \[2, 5\]",
    ),
    "weight1": (
        lambda: changed(weight1=small().weight1[:, 1:]),
        ValueError,
        r"weight1 has shape \[5, 10\]; expected \[E, 2H\+P\] = \[5, 11\]",
    ),
    "weight2": (
        lambda: changed(weight2=small().weight2.t()),
        ValueError,
        r"weight2 has shape \[5, 4\]; expected",
    ),
    "bias2": (
        lambda: changed(bias2=small().bias1),
        ValueError,
        r"bias2 has shape \[5\]; expected \[D\] = \[4\]",
    ),
    "norm1": (
        lambda: changed(norm1_weight=small().norm2_weight),
        ValueError,
        r"norm1_weight has shape \[4\]",
    ),
    "float_index": (
        lambda: changed(right_boundary=small().right_boundary.double()),
        TypeError,
        r"right_boundary has dtype (double|Double); expected int64 or int32",
    ),
    "t8_dtypes_differ": (
        lambda: changed(weight1=small().weight1.float()),
        TypeError,
        "weight1 has dtype torch.float32 and x has torch.float64.*autocast",
    ),
    "integer_x": (lambda: changed(x=small().x.long()), TypeError, "dtype torch.int64"),
}


@pytest.fixture(autouse=True)
def _check_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANBERT_EXT_DEBUG", "1")  # the CPU always does


@on_every_device
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case: str, device: str) -> None:
    make, error, message = BAD[case]
    with pytest.raises(error, match=message):
        make().on(device).run()


def test_a_parameter_on_another_device_is_named() -> None:
    with pytest.raises(ValueError, match="bias1 is on meta, expected cpu as x"):
        changed(bias1=small().bias1.to("meta")).run()


@on_every_device
@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("wide", PARAMETERS)
def test_a_float64_parameter_under_autocast_is_named(wide: str, impl: str, device: str) -> None:
    sample = small().to(torch.float32)
    sample = Sample(**{**vars(sample), wide: getattr(sample, wide).double()}).on(device)
    with torch.autocast(device, dtype=torch.bfloat16), pytest.raises(TypeError, match=f"{wide} has dtype"):
        sample.run(impl)


@on_every_device
def test_more_rows_than_max_rows_are_refused(device: str) -> None:
    live = int((small().left_boundary >= 0).sum())
    message = f"max_rows is {live - 1}; expected at least {live}, the rows that have a target"
    with pytest.raises(ValueError, match=message):
        small().on(device).run(max_rows=live - 1)
    with pytest.raises(ValueError, match="max_rows is -1; expected at least 0"):
        small().on(device).run(max_rows=-1)


def test_unknown_impl_is_refused() -> None:
    with pytest.raises(ValueError, match="impl is 'eager', expected 'fused' or 'reference'"):
        small().run("eager")
