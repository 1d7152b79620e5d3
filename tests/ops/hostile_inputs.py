"""Hostile inputs of the public operators: valid calls with one to three arguments spoiled, by seed and number.

    python hostile_inputs.py SEED FIRST LAST     # runs them in this process, a JSON line before and after each

An input is a pure function of (seed, number), so that a crash is reproduced by its number alone.
"""

from __future__ import annotations

import json
import random
import re
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spanbert_ext import SpanBoundaryHead, SpanMasker, ops

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
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


@dataclass
class Call:
    """A call of one operator: arguments by name, and which of them were spoiled how."""

    operator: str
    run: Callable[..., Any]
    arguments: dict[str, Any]
    spoiled: list[str] = field(default_factory=list)
    names: tuple[str, ...] = ()
    both_impls: bool = True

    def __str__(self) -> str:
        return f"{self.operator}({'; '.join(self.spoiled) or 'valid'})"


# --- Valid calls ------------------------------------------------------------------------------------------------


def _floats(rng: random.Random, *shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=_generator(rng), dtype=torch.float64).to(dtype)


def _generator(rng: random.Random) -> torch.Generator:
    return torch.Generator().manual_seed(rng.getrandbits(40))


def _masked(rng: random.Random, batch: int, length: int, width: int, slots: int) -> dict[str, Tensor]:
    """Index tensors as `span_mask` makes them: a span or two in each row, some without both neighbours."""
    index = torch.full((3, batch, width), -1)
    for b in range(batch):
        k, token = 0, rng.randrange(0, 3)
        while token < length and k < width:
            end = min(token + rng.randrange(1, 4), length)
            for i in range(token, min(end, token + width - k)):
                index[0, b, k] = i
                if token >= 1 and end < length and i - token < slots:
                    index[1, b, k], index[2, b, k] = token - 1, end
                k += 1
            token = end + rng.randrange(1, 5)
    return dict(zip(("masked_positions", "left_boundary", "right_boundary"), index.unbind(), strict=True))


def _size(rng: random.Random, end: int) -> int:
    """1 to end - 1, now and then 0."""
    return 0 if rng.random() < 0.04 else rng.randrange(1, end)


def span_mask(rng: random.Random) -> Call:
    vocab, batch, length = rng.randrange(8, 60), rng.randrange(0, 4), rng.choice([0, 1, 2, 7, 20, 65])
    ids = torch.randint(3, vocab, (batch, length), generator=_generator(rng))
    kinds = torch.randint(0, 3, (vocab,), generator=_generator(rng), dtype=torch.uint8)
    arguments = {
        "input_ids": ids,
        "kinds": kinds,
        "random_ids": torch.arange(3, vocab),
        "seed": rng.choice([0, 7, -1, torch.tensor(5)]),
        "epoch": rng.choice([0, 3, torch.tensor(2), torch.arange(batch)]),
        "attention_mask": rng.choice([None, torch.ones_like(ids), torch.rand(ids.shape) < 0.9]),
        "sample_ids": rng.choice([None, torch.arange(batch)]),
        "candidates": rng.choice([None, torch.full((batch, 2, 2), -1)]),
        "vocab_size": None,
        "mask_token_id": 1,
        "pad_token_id": rng.choice([-1, 0, 4]),
        "ratio": rng.choice([0.15, 0.3, 0.0, 1.0]),
        "p": 0.2,
        "max_words": rng.choice([1, 10]),
        "position_slots": 20,
        "mask_share": 0.8,
        "random_share": 0.1,
        "replace_per_token": rng.random() < 0.5,
        "fill_after_candidates": rng.random() < 0.5,
    }
    if rng.random() < 0.3:
        arguments["kinds"] = torch.randint(0, 3, ids.shape, generator=_generator(rng), dtype=torch.uint8)
        arguments["vocab_size"] = rng.choice([None, vocab])
    return Call("span_mask", ops.span_mask, arguments)


def boundary_mlp(rng: random.Random) -> Call:
    batch, length, hidden = rng.randrange(0, 4), _size(rng, 20), _size(rng, 6)
    inner, outer, slots, p = (_size(rng, 6) for _ in range(4))
    dtype = rng.choice(FLOATS)

    def normal(*shape: int) -> Tensor:
        return _floats(rng, *shape, dtype=dtype)

    arguments = {
        "x": normal(batch, length, hidden),
        **_masked(rng, batch, length, rng.randrange(0, 9), slots),
        "positions": normal(slots, p),
        "weight1": normal(inner, 2 * hidden + p),
        "bias1": normal(inner),
        "norm1_weight": normal(inner),
        "norm1_bias": normal(inner),
        "weight2": normal(outer, inner),
        "bias2": normal(outer),
        "norm2_weight": normal(outer),
        "norm2_bias": normal(outer),
        "eps": rng.choice([1e-3, 1e-1]),
        "max_rows": rng.choice([None, 100]),
        "token_rows": rng.choice([None, torch.randint(-1, max(batch * length, 0), (4,))]),
    }
    return Call("boundary_mlp", ops.boundary_mlp, arguments)


def vocab_ce(rng: random.Random) -> Call:
    rows, width, vocab, groups = (
        rng.randrange(0, 20),
        _size(rng, 9),
        _size(rng, 50),
        rng.randrange(1, 4),
    )
    dtype = rng.choice(FLOATS)
    targets = torch.randint(-1, max(vocab, 1), (rows,), generator=_generator(rng))
    arguments = {
        "h": _floats(rng, rows, width, dtype=dtype),
        "weight": _floats(rng, vocab, width, dtype=dtype),
        "bias": rng.choice([None, _floats(rng, groups, vocab, dtype=dtype)]),
        "targets": targets,
        "row_weight": torch.rand(rows, dtype=torch.float64 if dtype == torch.float64 else torch.float32),
        "first_rows": tuple(sorted(rng.randrange(0, rows + 1) for _ in range(groups - 1))),
        "label_smoothing": rng.choice([0.0, 0.1]),
        "max_rows": rng.choice([None, 100]),
    }
    arguments["first_rows"] = (0, *arguments["first_rows"])
    return Call("vocab_ce", ops.vocab_ce, arguments)


def head_targets(rng: random.Random) -> Call:
    batch, length, width = rng.randrange(0, 4), rng.randrange(0, 20), rng.randrange(0, 9)
    dtype = rng.choice([torch.float32, torch.float64])
    index = _masked(rng, batch, length, width, 4)
    arguments = {
        "labels": torch.randint(-1, 30, (batch, length), generator=_generator(rng)),
        "masked_positions": index["masked_positions"],
        "left_boundary": rng.choice([None, index["left_boundary"]]),
        "num_items": rng.choice([None, torch.tensor(31.0, dtype=dtype)]),
        "num_sbo_items": rng.choice([None, torch.tensor(0.0, dtype=dtype)]),
        "sbo_weight": rng.choice([1.0, 0.5]),
        "dtype": dtype,
        "max_rows": rng.choice([None, 100]),
    }
    return Call("head_targets", ops.head_targets, arguments)


def head_statistics(rng: random.Random) -> Call:
    batch, width, has_sbo = rng.randrange(0, 4), rng.randrange(0, 9), rng.random() < 0.5
    rows = rng.randrange(0, 9)
    n = rows + (batch * width if has_sbo else 0)
    arguments = {
        "nll": _floats(rng, n, dtype=rng.choice([torch.float32, torch.float64])),
        "prediction": torch.randint(-1, 5, (n,), generator=_generator(rng)),
        "targets": torch.randint(-1, 5, (n,), generator=_generator(rng)),
        "ranks": torch.randint(-1, max(rows, 1), (batch, width), generator=_generator(rng)),
        "has_sbo": has_sbo,
    }
    return Call("head_statistics", ops.head_statistics, arguments)


def span_pretraining_loss(rng: random.Random) -> Call:
    batch, length, hidden, vocab = rng.randrange(0, 4), _size(rng, 20), rng.randrange(1, 6), 30
    dtype = rng.choice([torch.float64, torch.float32])
    with_sbo = rng.random() < 0.7
    index = _masked(rng, batch, length, rng.randrange(0, 9), 4)
    torch.manual_seed(rng.getrandbits(30))
    head = SpanBoundaryHead(hidden, hidden, vocab, position_dim=3, position_slots=4, eps=1e-3).to(dtype)
    bias = _floats(rng, vocab, dtype=dtype)
    arguments = {
        "x": _floats(rng, batch, length, hidden, dtype=dtype),
        "labels": torch.randint(-1, vocab, (batch, length), generator=_generator(rng)),
        **(index if with_sbo else {"masked_positions": index["masked_positions"]}),
        "transform": torch.tanh,
        "weight": _floats(rng, vocab, hidden, dtype=dtype),
        "bias": rng.choice([None, bias]),
        "boundary_rows": head if with_sbo else None,
        "sbo_bias": rng.choice([None, bias + 1]),
        "sbo_weight": rng.choice([1.0, 0.5, torch.tensor(0.5, dtype=dtype)]),
        "num_items_in_batch": rng.choice([None, 12, torch.tensor(12)]),
        "num_sbo_items": rng.choice([None, 9, torch.tensor(9)]),
        "label_smoothing": rng.choice([0.0, 0.1]),
        "max_rows": rng.choice([None, 100]),
    }
    return Call("span_pretraining_loss", ops.span_pretraining_loss, arguments)


def span_boundary_head(rng: random.Random) -> Call:
    batch, length, hidden, slots = rng.randrange(0, 4), rng.randrange(1, 20), rng.randrange(1, 6), 4
    dtype = rng.choice(FLOATS)
    arguments = {
        "hidden_size": hidden,
        "output_size": rng.randrange(1, 6),
        "vocab_size": 9,
        "position_dim": 3,
        "position_slots": slots,
        "eps": 1e-3,
        "x": _floats(rng, batch, length, hidden, dtype=dtype),
        **_masked(rng, batch, length, rng.randrange(0, 9), slots),
        "max_rows": rng.choice([None, 100]),
        "token_rows": rng.choice([None, torch.randint(-1, max(batch * length, 0), (4,))]),
    }
    sizes = ("hidden_size", "output_size", "vocab_size", "position_dim", "position_slots", "eps")

    def run(**given: Any) -> Any:
        torch.manual_seed(0)
        head = SpanBoundaryHead(**{name: given.pop(name) for name in sizes}).to(dtype)
        return head(**given)

    # The module hands its own parameters to the operator, which names them.
    inner = ("positions", "weight1", "bias1", "norm1_weight", "norm1_bias", "weight2", "bias2")
    return Call("SpanBoundaryHead", run, arguments, names=(*inner, "boundary_mlp"))


def span_masker(rng: random.Random) -> Call:
    arguments = dict(span_mask(rng).arguments)
    vocab = 60
    arguments["kinds"] = torch.randint(0, 3, (vocab,), generator=_generator(rng), dtype=torch.uint8)
    arguments["vocab_size"] = vocab
    arguments["replacement"] = rng.choice(["span", "token"])
    arguments["scheme"] = rng.choice(["geometric", "words", "tokens"])
    arguments["token_kinds"] = rng.choice(
        [
            None,
            torch.randint(0, 3, arguments["input_ids"].shape, generator=_generator(rng), dtype=torch.uint8),
        ]
    )
    if arguments["pad_token_id"] == -1:
        arguments["pad_token_id"] = None
    del arguments["replace_per_token"]
    called = ("input_ids", "attention_mask", "seed", "epoch", "sample_ids", "token_kinds", "candidates")

    def run(**given: Any) -> Any:
        batch = {name: given.pop(name) for name in called}
        return tuple(SpanMasker(**given)(**batch).as_dict().values())

    return Call("SpanMasker", run, arguments, both_impls=False)


OPERATORS = (
    *(span_mask, boundary_mlp, vocab_ce, head_targets, head_statistics, span_pretraining_loss),
    *(span_boundary_head, span_masker),
)

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
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    seed, first, last = map(int, sys.argv[1:])
    for line in run(seed, range(first, last)):
        print(json.dumps(line), flush=True)
