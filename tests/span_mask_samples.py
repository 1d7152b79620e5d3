# SPDX-License-Identifier: Apache-2.0
"""Small inputs of `span_mask`, and how its outputs are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from spanbert_ext.ops import SpanMaskOutput

MASK, PAD, V = 3, 0, 200
POOL = torch.arange(100, 110)  # ten ids that no row below contains


def table() -> Tensor:
    """Kinds by id: 0..4 special, odd ids start a word, even ones continue one."""
    kinds = (torch.arange(V) % 2).to(torch.uint8)
    kinds[:5] = 2
    return kinds


def sample_inputs(rows: int = 6, length: int = 70, seed: int = 0, dtype: torch.dtype = torch.int64) -> dict:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 100, (rows, length), generator=generator, dtype=dtype)
    ids[:, :1], ids[:, -1:] = 1, 2
    return {
        "input_ids": ids,
        "kinds": table(),
        "random_ids": POOL,
        "seed": 5,
        "epoch": 2,
        "mask_token_id": MASK,
        "pad_token_id": PAD,
    }


def assert_equal(got: SpanMaskOutput, expected: SpanMaskOutput) -> None:
    for name, x, y in zip(got._fields, got, expected, strict=True):
        assert x.dtype == y.dtype and torch.equal(x, y), name
