"""Where tests of the CUDA code run: on a GPU, and on the CPU in a build that emulates it."""

from __future__ import annotations

import pytest

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
