"""Checks that every operator's public function makes before it dispatches."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

import spanbert_ext._library  # noqa: F401  registers the operators

Impl = Literal["fused", "reference"]

_OPERATORS = ("span_mask", "boundary_mlp", "vocab_ce")
# Read once: torch.compile sees plain constants and never traces into the dispatcher.
_HAS_CUDA_KERNEL = {
    name: torch._C._dispatch_has_kernel_for_dispatch_key(f"spanbert_ext::{name}", "CUDA") for name in _OPERATORS
}


def check_impl(operator: str, impl: str) -> None:
    if impl not in ("fused", "reference"):
        raise ValueError(f"{operator}: impl is {impl!r}; expected 'fused' or 'reference'")


def check_device(operator: str, name: str, device: torch.device) -> None:
    """Raises RuntimeError when this build has no kernel of `operator` for `device`, the device of argument `name`."""
    if device.type in ("cpu", "meta") or (device.type == "cuda" and _HAS_CUDA_KERNEL[operator]):
        return
    if device.type == "cuda":
        raise RuntimeError(
            f"{operator}: {name} is on {device}, but this build of spanbert_ext has no CUDA kernel of {operator}: it was "
            "compiled without nvcc or against a CPU-only torch (see `python -m spanbert_ext`). Install a CUDA "
            "build of torch and the CUDA toolkit of the same version, then reinstall with SPANBERT_EXT_CUDA=ON; "
            "or move the tensors to the CPU, or pass impl='reference'."
        )
    raise RuntimeError(
        f"{operator}: {name} is on {device}; expected a CPU or CUDA tensor (impl='reference' runs on any device)"
    )


def check_same_device(operator: str, name: str, device: torch.device, **others: Tensor | None) -> None:
    """Raises ValueError when one of `others` is not on `device`, the device of argument `name`."""
    for other, tensor in others.items():
        if tensor is not None and tensor.device != device:
            raise ValueError(f"{operator}: {other} is on {tensor.device} but {name} is on {device}; expected one device")
