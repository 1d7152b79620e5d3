# SPDX-License-Identifier: Apache-2.0
"""A run on a GPU begins with a check of the compiled operators there; `--impl reference` does without them."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("transformers")

from tiny_models import one_thread  # noqa: F401
from tiny_runs import arguments, write_corpus

from spanbert_ext.ops.self_check import Comparison
from spanbert_ext.pretrain import cli
from spanbert_ext.pretrain.run import arguments as run_arguments
from spanbert_ext.pretrain.run.arguments import check_kernels
from spanbert_ext.pretrain.settings.options import OptionError, Options


@pytest.fixture
def gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def found(monkeypatch, *comparisons: Comparison, error: Exception | None = None) -> list[str]:
    """The devices that are checked from here on, with this outcome."""
    devices = []

    def check(device: str) -> list[Comparison]:
        devices.append(device)
        if error is not None:
            raise error
        return list(comparisons)

    monkeypatch.setattr(run_arguments, "self_check", check)
    return devices


def test_operators_that_are_right_are_taken(gpu, monkeypatch):
    devices = found(monkeypatch, Comparison("float32: MLM loss", 1e-7, 1e-5))
    check_kernels(Options())
    assert devices == ["cuda"]


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_operators_that_are_wrong_end_it_with_the_way_around(gpu, monkeypatch, error):
    found(
        monkeypatch,
        Comparison("float32: MLM loss", 1e-7, 1e-5),
        Comparison("bfloat16: gradient of x", error, 1e-5),
    )
    with pytest.raises(
        OptionError, match=r"something else .* \(bfloat16: gradient of x\)\. --impl reference trains without"
    ):
        check_kernels(Options())


def test_operators_that_are_missing_end_it_too(gpu, monkeypatch):
    found(monkeypatch, error=RuntimeError("this build has no CUDA kernels"))
    with pytest.raises(
        OptionError, match="do not run on this GPU: this build has no CUDA kernels. --impl reference"
    ):
        check_kernels(Options())


@pytest.mark.parametrize("options", [Options(device="cpu"), Options(impl="reference")])
def test_nothing_is_checked_where_they_do_not_run_on_a_gpu(gpu, monkeypatch, options):
    devices = found(monkeypatch, error=RuntimeError)
    check_kernels(options)
    assert devices == []


def test_a_run_without_them_has_the_same_course(tmp_path):
    corpus, losses = write_corpus(tmp_path), {}
    for impl in ("fused", "reference"):
        output = tmp_path / impl
        assert cli.main(arguments(corpus, output, "--impl", impl)) == 0
        metrics = json.loads((output / "metrics.json").read_text())
        losses[impl] = {name: value for name, value in metrics.items() if "loss" in name}
        config = json.loads((output / "config.json").read_text())
        assert config["span_pretraining"]["impl"] == impl
    print(losses)
    assert len(losses["fused"]) > 1
    assert losses["fused"] == pytest.approx(losses["reference"], rel=1e-4)
