# SPDX-License-Identifier: Apache-2.0
"""Where tests of the CUDA code run: on a GPU, and on the CPU in a build that emulates it; a skip says why."""

from __future__ import annotations

import os

import pytest
import torch

from spanbert_ext import build_info

on_cuda_code = pytest.mark.parametrize(
    "device",
    [
        pytest.param(
            "cpu",
            marks=pytest.mark.skipif(
                not build_info()["cuda_emulated"], reason="this build does not emulate CUDA on the CPU"
            ),
        ),
        pytest.param("cuda", marks=pytest.mark.needs_cuda),
    ],
)


def missing_cuda() -> str | None:
    """Why CUDA kernels cannot run here, or None when they can."""
    if build_info()["cuda_kernels"]:
        return None if torch.cuda.is_available() else "torch.cuda.is_available() is False"
    return f"this build has no CUDA kernels: {build_info()['cuda_reason']}"


def skip_without_cuda(item: pytest.Item) -> None:
    """`@pytest.mark.needs_cuda` skips with the reason; SPANBERT_EXT_REQUIRE_CUDA=1 makes that a failure."""
    if item.get_closest_marker("needs_cuda") is None:
        return
    reason = missing_cuda()
    if reason is not None:
        if os.environ.get("SPANBERT_EXT_REQUIRE_CUDA") == "1":
            pytest.fail(f"SPANBERT_EXT_REQUIRE_CUDA=1, but {reason}", pytrace=False)
        pytest.skip(reason)
