# SPDX-License-Identifier: Apache-2.0
"""What the public functions of all operators share: checks of arguments, dtype rules, choice of implementation.

Checks of a call look at types, dtypes, layouts and devices; shapes and values are the compiled operators' own to check.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from spanbert_ext._library import missing_cuda_kernels
from spanbert_ext.ops._torch_internals import in_dispatch_mode, in_transform

Impl = Literal["fused", "reference"]

_STRIDED = torch.strided
_COMPUTE_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def use_reference(impl: str) -> bool:
    """True for the plain PyTorch implementation; raises ValueError for an unknown name."""
    if not isinstance(impl, str) or impl not in ("fused", "reference"):
        raise ValueError(f"impl is {impl!r}, expected 'fused' or 'reference'")
    return impl == "reference"


def check_tensors(op: str, required: dict[str, Any], optional: dict[str, Any] | None = None) -> None:
    """Raises TypeError for what is no tensor, ValueError for a tensor without strides or on another device.

    The first of `required` says the device of all. None is allowed in `optional` only.
    """
    first_name, first = next(iter(required.items()))
    device = first.device if isinstance(first, Tensor) else None
    for group, expected in ((required, "a tensor"), (optional or {}, "a tensor or None")):
        for name, value in group.items():
            if value is None and group is optional:
                continue
            if not isinstance(value, Tensor):
                raise TypeError(f"{op}: {name} is {shown(value)}, expected {expected}")
            if value.layout is not _STRIDED or value.is_nested or value.is_quantized:
                kind = "nested" if value.is_nested else "quantized" if value.is_quantized else value.layout
                raise ValueError(
                    f"{op}: {name} is a {kind} tensor, expected a dense one (layout torch.strided)"
                )
            if value.device != device:
                raise ValueError(f"{op}: {name} is on {value.device}, expected {device} as {first_name}")


def shown(value: Any) -> str:
    """What a wrong value is, in one line: its type, and the value itself where that is short."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        return str(value.dtype) if value.dim() else f"a tensor of {value.dtype}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    kind = type(value).__name__
    if isinstance(value, (numbers.Number, np.generic, str, bytes)):
        text = repr(value) if isinstance(value, (str, bytes)) else str(value)
        return f"{text if len(text) <= 40 else text[:37] + '...'} ({kind})"
    return f"{'an' if kind[0] in 'aeiouAEIOU' else 'a'} {kind}"


def integer(name: str, value: Any, expected: str = "an integer") -> int:
    """`value` as an int of Python's own, or the symbol that stands for one in a compiled call.

    Raises:
        TypeError: floats, bools, tensors, strings.
        ValueError: int64 cannot hold it.
    """
    in_graph = isinstance(value, int) and not isinstance(value, bool) and torch.compiler.is_compiling()
    if isinstance(value, torch.SymInt) or in_graph:  # operator.index would make a symbol a constant
        return value
    if type(value) is not int:
        if isinstance(value, (bool, Tensor)) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} is {shown(value)}; expected {expected}")
        try:  # NumPy's integers too; torch.compile 2.11 cannot follow operator.index
            value = value.__index__()
        except TypeError:  # an array of several
            raise TypeError(f"{name} is {shown(value)}; expected {expected}") from None
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} is {shown(value)}; expected {expected} that int64 can hold")
    return value


def real(name: str, value: Any) -> float:
    """`value` as a float, or the symbol that stands for a number in a compiled call.

    Raises:
        TypeError: what is no number, bools and tensors among it.
        ValueError: a double cannot hold it.
    """
    if isinstance(value, (torch.SymFloat, torch.SymInt)):
        return value
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} is {shown(value)}; expected a number")
    if isinstance(value, float) and torch.compiler.is_compiling():
        return value
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is {shown(value)}; expected a number within a double's range") from None


def flag(name: str, value: Any) -> bool:
    """`value` as a bool; raises TypeError for everything else."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {shown(value)}; expected True or False")
    return bool(value)


def expect(condition: bool | torch.SymBool, error: type[Exception], message: Callable[[], str]) -> None:
    """Raises the error unless the condition holds. Of symbolic sizes it becomes a fact, not a guess."""
    if isinstance(condition, bool):  # torch.compile cannot read a message that names what is around it
        if not condition:
            raise error(message())
        return
    check = {
        ValueError: torch._check_value,
        TypeError: torch._check_type,
        IndexError: torch._check_index,
    }[error]
    check(condition, message)


def expect_shape(op: str, name: str, tensor: Tensor, expected: tuple[int, ...], dimensions: str) -> None:
    """Raises ValueError unless the tensor has the shape, which `dimensions` says in letters."""
    expect(
        tensor.dim() == len(expected),
        ValueError,
        lambda: f"{op}: {name} has shape {list(tensor.shape)}, expected {dimensions}",
    )
    for size, wanted in zip(tensor.shape, expected, strict=True):
        expect(
            size == wanted,
            ValueError,
            lambda: (
                f"{op}: {name} has shape {list(tensor.shape)}, expected {dimensions} = {[int(n) for n in expected]}"
            ),
        )


def expect_dim(op: str, name: str, tensor: Tensor, dimensions: str) -> None:
    """Raises ValueError unless the tensor has as many dimensions as `dimensions`, such as "[B, K]", has letters."""
    expect(
        tensor.dim() == dimensions.count(",") + 1,
        ValueError,
        lambda: f"{op}: {name} has shape {list(tensor.shape)}, expected {dimensions}",
    )


def expect_dtype(op: str, name: str, tensor: Tensor, *expected: torch.dtype) -> None:
    """Raises TypeError unless the tensor has one of the dtypes."""
    expect(
        tensor.dtype in expected,
        TypeError,
        lambda: f"{op}: {name} has dtype {tensor.dtype}, expected {' or '.join(map(str, expected))}",
    )


def expect_floating(op: str, name: str, tensor: Tensor, compute: torch.dtype) -> None:
    """Raises TypeError unless the tensor can be cast to the compute dtype: float64 goes with float64 alone."""
    expect_dtype(op, name, tensor, *_COMPUTE_DTYPES)
    expect(
        (compute == torch.float64) == (tensor.dtype == torch.float64),
        TypeError,
        lambda: (
            f"{op}: {name} has dtype {tensor.dtype} with compute_dtype {compute}, expected both or neither to be "
            "float64"
        ),
    )


def expect_one_device(op: str, arguments: dict[str, Any]) -> None:
    """Raises ValueError when the tensors among a raw operator's arguments lie on several devices."""
    tensors = {name: value for name, value in arguments.items() if isinstance(value, Tensor)}
    first_name, first = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        expect(
            tensor.device == first.device,
            ValueError,
            lambda name=name, tensor=tensor: (
                f"{op}: {name} is on {tensor.device}, expected {first.device} as {first_name}"
            ),
        )


def compute_dtype(
    op: str, x: Tensor, parameters: dict[str, Tensor | None], input_name: str = "x"
) -> torch.dtype:
    """The dtype of the GEMM operands: autocast's where it is on for x's device, else x's own.

    Operators read it here and cast inside, so that float32 master weights and row weights stay what they are.
    float64 is never cast, as in torch's own autocast.

    Raises:
        TypeError: x is not a supported floating dtype, or a parameter has another dtype and autocast is off.
    """
    if x.dtype not in _COMPUTE_DTYPES:
        raise TypeError(
            f"{op}: {input_name} has dtype {x.dtype}, expected one of {', '.join(map(str, _COMPUTE_DTYPES))}"
        )
    device = x.device.type
    # The one device without autocast, by name: torch 2.11 cannot compile a call of is_autocast_available.
    if device != "meta" and torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    for name, parameter in parameters.items():
        if parameter is not None and parameter.dtype != x.dtype:
            raise TypeError(
                f"{op}: {name} has dtype {parameter.dtype} and {input_name} has {x.dtype}, expected the same dtype "
                f"(or an active torch.autocast({device!r}), under which they may differ)"
            )
    return x.dtype


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything else: the dtype of sums, losses and row weights."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def require_kernels(op: str, input_name: str, x: Tensor) -> None:
    """Raises RuntimeError, with the remedy, when no kernel of this build runs on x's device."""
    if x.device.type in ("cpu", "meta"):
        return
    if x.device.type != "cuda":
        raise RuntimeError(
            f"{op}: {input_name} is on {x.device}, expected cpu or cuda; impl='reference' runs anywhere"
        )
    missing = missing_cuda_kernels()
    if missing:
        raise RuntimeError(
            f"{op}: {input_name} is on {x.device}, but this build of spanbert_ext has no CUDA kernels "
            f"({missing}). Install a CUDA build of torch and nvcc, then rebuild: "
            "SPANBERT_EXT_CUDA=ON pip install --no-build-isolation --force-reinstall --no-deps spanbert-ext. "
            "impl='reference' works meanwhile."
        )


def may_read_values(x: Tensor) -> bool:
    """Whether a check may look at x's elements: always on the CPU, on CUDA only when SPANBERT_EXT_DEBUG=1.

    Nothing is read inside torch.compile, where it would break the graph, inside the transforms of torch.func, which
    cannot tell the values of a batch apart, and inside a dispatch mode, where tensors may have no values.
    """
    if torch.compiler.is_compiling() or in_transform() or in_dispatch_mode():
        return False
    return x.device.type == "cpu" or (x.device.type == "cuda" and os.environ.get("SPANBERT_EXT_DEBUG") == "1")
