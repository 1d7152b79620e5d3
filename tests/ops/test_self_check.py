# SPDX-License-Identifier: Apache-2.0
"""`python -m spanbert_ext --check`: right operators pass it, and one that is a little wrong does not."""

from __future__ import annotations

import runpy

import pytest
import torch

from spanbert_ext.ops import self_check as module
from spanbert_ext.ops.self_check import self_check

check = runpy.run_module("spanbert_ext.__main__", run_name="main")["main"]


def test_the_operators_pass(capsys):
    assert check(["--check", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "cpu_capability" in printed and "bfloat16: gradient of weight1" in printed
    assert "cpu: none of 35 results differ" in printed


@pytest.mark.needs_cuda
def test_the_operators_pass_on_a_gpu():
    assert [one for one in self_check("cuda") if not one.passed] == []


def wrong_positions(real):
    def masked(*args, impl, **options):
        output = real(*args, impl=impl, **options)
        return output if impl == "reference" else output._replace(right_boundary=output.right_boundary + 1)

    return masked


def wrong_gradient(real):
    def rows(x, *args, impl, **options):
        if impl == "fused":
            x = x + 1e-3 * (x - x.detach())  # the value is right
        return real(x, *args, impl=impl, **options)

    return rows


def nothing_finite(real):
    def rows(x, *args, impl, **options):
        return real(x, *args, impl=impl, **options) * (torch.nan if impl == "fused" else 1)

    return rows


@pytest.mark.parametrize(
    ("name", "change", "failed"),
    [
        ("span_mask", wrong_positions, {"span_mask: right_boundary"}),
        ("boundary_mlp", wrong_gradient, {"float32: gradient of x"}),
        (
            "boundary_mlp",
            nothing_finite,
            {"float32: SBO loss", "bfloat16: SBO loss", "float32: gradient of weight"},
        ),
    ],
)
def test_a_wrong_operator_does_not(monkeypatch, capsys, name, change, failed):
    monkeypatch.setattr(module, name, change(getattr(module, name)))
    found = {one.what for one in self_check("cpu") if not one.passed}
    assert failed <= found
    assert len(failed) > 1 or found == failed
    assert check(["--check", "cpu"]) == 1
    printed = capsys.readouterr().out
    assert f"cpu: {len(found)} of 35 results differ" in printed and printed.count("FAILED") == len(found)


def test_a_device_that_is_not_there_is_said(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert check(["--check", "cuda"]) == 1
    assert capsys.readouterr().err.startswith("cuda: ")
