# SPDX-License-Identifier: Apache-2.0
"""Hostile inputs of the public operators: valid calls with one to three arguments spoiled, by seed and number.

    python hostile_inputs.py SEED FIRST LAST     # runs them in this process, a JSON line before and after each

An input is a pure function of (seed, number), so that a crash is reproduced by its number alone.
"""

from __future__ import annotations

import json
import os
import random
import re
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hostile_calls import FLOATS, OPERATORS, Call
from torch import Tensor

# Fused and plain sums of a few dozen terms of order 1; half precision rounds at other places.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.1}
MEMORY = 6 * 2**30  # bytes of address space: what asks for more is refused by the system
# What torch says then: refusals that no argument check foresees.
OUT_OF_MEMORY = re.compile(
    r"not enough memory|can't allocate memory|bad_alloc|Storage size calculation overflowed"
)
DECODERS = ("vocab_ce", "span_pretraining_loss")
# Results that count equal predictions: two accuracies and the statistics.
ACCURACIES = {("span_pretraining_loss", "result", at) for at in (5, 6, 7)}

# --- What spoils an argument --------------------------------------------------------------------------------------

NO_TENSORS: tuple[Any, ...] = (None, 3, 0.5, "ids", [1, 2], {}, object(), np.ones(3), np.int64(2), b"x")
OPTIONS: tuple[Any, ...] = (
    *(None, True, False, "0.3", b"x", [1], object(), torch.float16, 3j, Fraction(1, 3), Decimal("0.3")),
    *(0, 1, -1, 5, 2**31, 2**63 - 1, 2**63, -(2**63), 2**70, 10**400),
    *(0.3, 0.0, 1.0, -0.5, 1.5, float("nan"), float("inf"), -float("inf"), 1e308, 5e-324),
    *(np.float32(0.3), np.float64(0.3), np.int64(3), np.uint64(2**63), np.bool_(True)),
    *(torch.tensor(0.3), torch.tensor(3), torch.ones(2), torch.empty(0)),
)
INTEGERS = (-1, -2, -100, 0, 1, 2, 5, 20, 30, 60, 2**28, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, -(2**63))
REALS = (float("nan"), float("inf"), -float("inf"), 1e300, -1e30, 1e4, 1e-300, 0.0)
DTYPES = (
    *(*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.complex64, torch.float8_e4m3fn, torch.uint16, torch.uint64),
)


class Subclass(Tensor):
    """A tensor class of the caller's own."""


def _one_value(rng: random.Random, t: Tensor) -> Tensor:
    t = t.clone()
    if t.numel():
        value = rng.choice(REALS if t.is_floating_point() else INTEGERS)
        limits = None if t.is_floating_point() or t.dtype == torch.bool else torch.iinfo(t.dtype)
        flat = t.view(-1)
        if rng.random() < 0.2:
            flat = flat[:]
        else:
            flat = flat[(at := rng.randrange(t.numel())) : at + 1]
        flat.fill_(value if limits is None else min(max(value, limits.min), limits.max))
    return t


def _spread(_: random.Random, t: Tensor) -> Tensor:
    return torch.stack([t, t], dim=-1)[..., 0]


def _overlapping(_: random.Random, t: Tensor) -> Tensor:
    return t.contiguous().as_strided(t.shape, (1,) * t.dim()) if t.numel() else t


def _quantized(_: random.Random, t: Tensor) -> Tensor:
    return torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8)


TENSOR_CHANGES: dict[str, Callable[[random.Random, Tensor], Any]] = {
    "value": _one_value,
    "dtype": lambda rng, t: t.to(rng.choice(DTYPES)),
    "row dropped": lambda _, t: t[1:] if t.dim() else t,
    "column dropped": lambda _, t: t[..., 1:] if t.dim() else t,
    "row repeated": lambda _, t: torch.cat([t, t[:1]]) if t.dim() else t[None],
    "dimension dropped": lambda _, t: t[0] if t.dim() and len(t) else t.flatten(),
    "dimension added": lambda _, t: t[None],
    "no rows": lambda _, t: t[:0] if t.dim() else t,
    "no columns": lambda _, t: t[..., :0] if t.dim() else t,
    "huge and empty": lambda rng, t: t.new_empty(rng.choice([(2**40, 0), (0, 2**40), (2**40, 0, 3), (0,)])),
    "transposed": lambda _, t: t.transpose(0, -1) if t.dim() else t,
    "strided": _spread,
    "expanded": lambda _, t: t[:1].expand_as(t) if t.dim() and len(t) else t,
    "overlapping": _overlapping,
    "sparse": lambda _, t: t.to_sparse(),
    "sparse rows": lambda _, t: t.to_sparse_csr() if t.dim() == 2 else t.to_sparse(),
    "mkldnn": lambda _, t: t.float().to_mkldnn(),
    "nested": lambda rng, t: torch.nested.nested_tensor(
        [t, t], layout=rng.choice([torch.strided, torch.jagged])
    ),
    "quantized": _quantized,
    "meta": lambda _, t: t.to("meta"),
    "negated view": lambda _, t: torch._neg_view(t) if t.is_floating_point() else t,
    "parameter": lambda _, t: torch.nn.Parameter(t, requires_grad=t.is_floating_point()),
    "subclass": lambda _, t: t.as_subclass(Subclass),
    "array": lambda _, t: t.float().numpy(),
    "list": lambda _, t: t.tolist(),
    "no tensor": lambda rng, _: rng.choice(NO_TENSORS),
}
# Those that an operator may accept, so that there are results to compare.
MILD_CHANGES = ("value", "strided", "expanded", "overlapping", "parameter", "subclass", "negated view")
FUNCTIONS: tuple[Any, ...] = (
    *(None, 3, "tanh", torch.ones(3)),
    *(
        lambda *_, **__: None,
        lambda x, *_, **__: x[..., :0],
        lambda x, *_, **__: x.long(),
        lambda x, *_, **__: x,
    ),
    *(lambda x, *_, **__: x.flatten(), lambda x, *_, **__: (x, x), lambda x, *_, **__: x.double()),
)
FIRST_ROWS: tuple[Any, ...] = (
    *((), (1,), (0, 99), (0, 5, 2), (-1,), (0, -1), (0.0,), (None,), ("0",), (0, 2**63), (0, 2**40), (True,)),
    *(
        "0",
        0,
        {0: 1},
        np.zeros(1, int),
        torch.zeros(1, dtype=torch.int64),
        [torch.tensor(0)],
        range(2),
        [[0]],
    ),
)


def spoil(rng: random.Random, call: Call, name: str) -> None:
    """Changes one argument of the call and writes down how."""
    value = call.arguments[name]
    if name in ("transform", "boundary_rows"):
        at = rng.randrange(len(FUNCTIONS))
        call.arguments[name], what = FUNCTIONS[at], f"function {at}"
    elif name == "first_rows":
        call.arguments[name] = rng.choice(FIRST_ROWS)
        what = repr(call.arguments[name])
    elif isinstance(value, Tensor):
        what = rng.choice([*TENSOR_CHANGES, *MILD_CHANGES * 4])
        try:
            call.arguments[name] = TENSOR_CHANGES[what](rng, value)
        except (RuntimeError, NotImplementedError, TypeError, ValueError):
            what += " (torch cannot)"
        if isinstance(changed := call.arguments[name], Tensor):
            what += f" {changed.dtype} {'' if changed.is_nested else list(changed.shape)}"
            if "value" in what and changed.numel() < 40:
                what += f" {changed.tolist()}"
    else:
        call.arguments[name] = rng.choice(OPTIONS)
        what = repr(call.arguments[name])[:80]
    call.spoiled.append(f"{name}: {what}")


def hostile_call(seed: int, number: int) -> Call:
    rng = random.Random(f"{seed} {number}")
    torch.manual_seed(rng.getrandbits(40))
    call = rng.choice(OPERATORS)(rng)
    for name in rng.sample(list(call.arguments), rng.choice([0, 1, 1, 1, 2, 3])):
        spoil(rng, call, name)
    for name, value in call.arguments.items():
        if isinstance(value, Tensor) and value.is_leaf and value.dtype in FLOATS and rng.random() < 0.5:
            call.arguments[name] = value.requires_grad_()
    return call


# --- The judge ------------------------------------------------------------------------------------------------------


def outcome(call: Call, **impl: str) -> tuple[list[Tensor], list[Tensor | None]] | Exception:
    """Results and gradients of the sum of all that is differentiable, or the exception."""
    leaves = [v for v in call.arguments.values() if isinstance(v, Tensor) and v.requires_grad]
    head = call.arguments.get("boundary_rows")
    if isinstance(head, torch.nn.Module):
        leaves += head.parameters()
    try:
        results = call.run(**call.arguments, **impl)
        results = list(results) if isinstance(results, tuple) else [results]
        total = sum((r.sum() for r in results if r.requires_grad), torch.zeros(()))
        gradients: list[Tensor | None] = [None] * len(leaves)
        if leaves and total.requires_grad:
            gradients = list(torch.autograd.grad(total, leaves, allow_unused=True))
    except Exception as error:
        return error
    return [r.detach() for r in results], gradients


def _has_equal_rows(weight: Any) -> bool:
    if not isinstance(weight, Tensor) or weight.dim() != 2 or weight.is_meta:
        return False
    return weight.shape[1] == 0 or len(weight.detach().unique(dim=0)) < len(weight)


def disagreement(call: Call, fused: Any, plain: Any) -> str | None:
    """Where results or gradients of both implementations differ: shapes, dtypes, or values beyond rounding."""
    given = {v.dtype for v in call.arguments.values() if isinstance(v, Tensor)}
    limit = max(TOLERANCES[dtype] for dtype in FLOATS if dtype in given or dtype == torch.float64)
    # Products carry a NaN on where the reference picks rows: a 0 times it is another.
    floats = [v.detach() for v in call.arguments.values() if isinstance(v, Tensor) and v.is_floating_point()]
    may_spread = not all(bool(v.isfinite().all()) for v in (*floats, *plain[0]) if not v.is_meta)
    # Two logits may be equal in one implementation alone: rounded to 8 or 11 bits, or of equal words.
    # An exponential of what large numbers leave after cancelling has no right digits.
    extreme = any(float(v.abs().max()) > 1e6 for v in floats if v.numel() and not v.is_meta)
    half = limit >= TOLERANCES[torch.float16]
    exact = not (half or may_spread or _has_equal_rows(call.arguments.get("weight")))
    for kind, ours, theirs in zip(("result", "gradient"), fused, plain, strict=True):
        for at, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            a, b = (torch.zeros(()) if t is None and other is None else t for t, other in ((a, b), (b, a)))
            if a is None or b is None:  # a gradient that one graph does not reach
                a, b = (torch.zeros_like(other) if t is None else t for t, other in ((a, b), (b, a)))
            if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
                return (
                    f"{kind} {at}: {a.dtype} {list(a.shape)} {a.device}, {b.dtype} {list(b.shape)} {b.device}"
                )
            if a.device.type == "meta" or extreme:
                continue
            if a.is_floating_point() and (exact or (call.operator, kind, at) not in ACCURACIES):
                finite = b.isfinite() & a.isfinite() if may_spread else b.isfinite()
                # Rows in units of the largest one lose what is small beside it, in half precision to nothing.
                largest = (b if half else b.where(finite, 0)).double().abs().nan_to_num(posinf=float("inf"))
                a, b = a.where(finite, 0).double(), b.where(finite, 0).double()
                error = (a - b).abs() / (1 + b.abs() + (largest.max() if b.numel() else 0))
                if not bool((error <= limit).all()):
                    return f"{kind} {at}: off by {error.max().item():.3g} of its size"
            elif (exact or call.operator not in DECODERS) and not torch.equal(a, b):
                return f"{kind} {at}: {a.flatten()[:8].tolist()} and {b.flatten()[:8].tolist()}"
    return None


def unnamed(call: Call, error: Exception) -> bool:
    """Whether a refusal names neither an argument nor the operator."""
    message = str(error)
    known = (*call.arguments, *call.names, call.operator, "impl")
    return not (
        OUT_OF_MEMORY.search(message) or any(re.search(rf"\b{re.escape(n)}\b", message) for n in known)
    )


def judge(call: Call) -> tuple[str, str | None]:
    """What happened, in a word or an exception's name, and the fault, if it is one."""
    fused = outcome(call)
    if isinstance(fused, Exception):
        what = type(fused).__name__
        if unnamed(call, fused):
            return what, f"names nothing: {what}: {str(fused)[:200]}"
    else:
        what = "accepted"
    if not call.both_impls:
        return what, None
    plain = outcome(call, impl="reference")
    if isinstance(plain, Exception):
        if unnamed(call, plain):
            return what, f"reference names nothing: {type(plain).__name__}: {str(plain)[:200]}"
        if what == "accepted" and not OUT_OF_MEMORY.search(str(plain)):
            return what, f"only the reference refuses: {type(plain).__name__}: {str(plain)[:200]}"
        return what, None
    if what != "accepted":
        if OUT_OF_MEMORY.search(str(fused)):
            return what, None
        return what, f"only fused refuses: {what}: {str(fused)[:200]}"
    if (difference := disagreement(call, fused, plain)) is not None:
        return what, f"silent difference: {difference}"
    return what, None


def run(seed: int, numbers: range) -> Iterator[dict[str, Any]]:
    for number in numbers:
        call = hostile_call(seed, number)
        yield {"begins": number, "operator": call.operator, "input": str(call)}
        what, fault = judge(call)
        yield {"ends": number, "operator": call.operator, "what": what, "fault": fault}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # AddressSanitizer maps terabytes, and has a limit of its own in make sanitize.
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    seed, first, last = map(int, sys.argv[1:])
    for line in run(seed, range(first, last)):
        print(json.dumps(line), flush=True)
