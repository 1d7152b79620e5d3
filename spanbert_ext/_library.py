"""Loads the compiled operators; every failure says what is wrong and what to do."""

from __future__ import annotations

import torch

from spanbert_ext import _C

assert torch.__version__


def build_info() -> dict[str, str]:
    """What the extension was built with and what it uses in this process."""
    return dict(_C.build_info())
