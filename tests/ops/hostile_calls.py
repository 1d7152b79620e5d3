# SPDX-License-Identifier: Apache-2.0
"""Valid calls of every public operator, as `hostile_inputs.py` spoils them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from spanbert_ext import SpanBoundaryHead, SpanMasker, ops

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


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
        "candidate_share": rng.choice([0.0, 0.5, 1.0]),
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
