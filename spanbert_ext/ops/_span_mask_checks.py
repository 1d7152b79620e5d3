# SPDX-License-Identifier: Apache-2.0
"""What `span_mask` refuses, for the fake kernel and the reference.

csrc/span_mask/span_mask_task.cpp has the same rules.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from spanbert_ext.ops._common import expect, expect_dim, expect_dtype, expect_shape

_OP = "span_mask"
_INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_ROW_LIMIT = 2**28
_MAX_WORDS_LIMIT = 64
_KINDS = "0 (continues a word), 1 (starts a word) or 2 (special)"


def check_arguments(given: dict[str, Any]) -> None:
    """Shapes, dtypes and options, by the names of the arguments; no element is read."""
    input_ids, kinds, random_ids = given["input_ids"], given["kinds"], given["random_ids"]
    expect_dtype(_OP, "input_ids", input_ids, torch.int64, torch.int32)
    expect_dim(_OP, "input_ids", input_ids, "[B, L]")
    rows, length = input_ids.shape
    expect(
        length < _ROW_LIMIT,
        ValueError,
        lambda: f"{_OP}: input_ids has rows of {length} tokens, expected fewer than 2^28",
    )
    expect_dtype(_OP, "kinds", kinds, torch.uint8)
    if kinds.dim() == 1:
        expect(
            kinds.shape[0] > 0,
            ValueError,
            lambda: f"{_OP}: kinds has shape [0], expected one kind for each id",
        )
    else:
        expect_shape(_OP, "kinds", kinds, (rows, length), "a table [V] or explicit kinds [B, L]")
    expect_dtype(_OP, "random_ids", random_ids, torch.int64)
    expect_dim(_OP, "random_ids", random_ids, "[R]")
    expect_dtype(_OP, "seed", given["seed"], torch.int64)
    expect_shape(_OP, "seed", given["seed"], (), "no dimension")
    expect_dtype(_OP, "epoch", given["epoch"], torch.int64)
    if given["epoch"].dim() != 0:
        expect_shape(_OP, "epoch", given["epoch"], (rows,), "no dimension, or [B]")
    if (attention_mask := given["attention_mask"]) is not None:
        expect_dtype(_OP, "attention_mask", attention_mask, *_INTEGERS)
        expect_shape(_OP, "attention_mask", attention_mask, (rows, length), "[B, L]")
    if (sample_ids := given["sample_ids"]) is not None:
        expect_dtype(_OP, "sample_ids", sample_ids, torch.int64)
        expect_shape(_OP, "sample_ids", sample_ids, (rows,), "[B]")
    if (candidates := given["candidates"]) is not None:
        expect_dtype(_OP, "candidates", candidates, torch.int64)
        expect_dim(_OP, "candidates", candidates, "[B, M, 2]")
        expect_shape(_OP, "candidates", candidates, (rows, candidates.shape[1], 2), "[B, M, 2]")
    _check_options(given)


def _check_options(given: dict[str, Any]) -> None:
    def check(condition: bool, name: str, value: Any, expected: str) -> None:
        expect(condition, ValueError, lambda: f"{_OP}: {name} is {value}, expected {expected}")

    for name in ("ratio", "mask_share", "random_share", "candidate_share"):
        check(0 <= given[name] <= 1, name, given[name], "a number in [0, 1]")
    share = given["mask_share"] + given["random_share"]
    check(share <= 1, "mask_share + random_share", share, "at most 1")
    check(0 < given["p"] <= 1, "p", given["p"], "a number in (0, 1]")
    check(
        1 <= given["max_words"] <= _MAX_WORDS_LIMIT,
        "max_words",
        given["max_words"],
        f"1 to {_MAX_WORDS_LIMIT}",
    )
    check(given["position_slots"] >= 0, "position_slots", given["position_slots"], "0 or more")
    kinds, vocab_size = given["kinds"], given["vocab_size"]
    if kinds.dim() == 1 and vocab_size is not None:
        check(vocab_size == kinds.shape[0], "vocab_size", vocab_size, f"{list(kinds.shape)} as kinds has")
    if math.floor(share * 2.0**32) > math.floor(given["mask_share"] * 2.0**32):
        check(
            given["random_ids"].shape[0] > 0,
            "random_ids",
            "empty",
            f"ids to draw from, as random_share is {given['random_share']}",
        )
    vocabulary, mask_token_id = vocabulary_size(given["input_ids"], kinds, vocab_size), given["mask_token_id"]
    expect(
        0 <= mask_token_id < vocabulary,
        IndexError,
        lambda: f"{_OP}: mask_token_id is {mask_token_id}, outside the vocabulary [0, {vocabulary})",
    )


def vocabulary_size(input_ids: Tensor, kinds: Tensor, vocab_size: int | None) -> int:
    """Ids lie below it: a table's length, else `vocab_size`, at most what the ids' own type can hold."""
    if kinds.dim() == 1:
        return kinds.shape[0]
    all_ids = torch.iinfo(input_ids.dtype).max + (input_ids.dtype == torch.int32)
    return all_ids if vocab_size is None else min(vocab_size, all_ids)


def check_values(given: dict[str, Any]) -> None:
    """The rules for each element; the first one that breaks a rule is named."""
    input_ids, kinds = given["input_ids"], given["kinds"]
    vocabulary = vocabulary_size(input_ids, kinds, given["vocab_size"])

    def refuse(bad: Tensor, values: Tensor, name: str, error: type[Exception], expected: str) -> None:
        where = bad.nonzero()
        if len(where):
            index = where[0].tolist()
            place = f"[{', '.join(map(str, index))}]" if index else ""
            raise error(f"{_OP}: {name}{place} is {values[tuple(index)].tolist()}, {expected}")

    def outside(ids: Tensor) -> Tensor:
        # An id that fits the type may not be compared with a size that does not.
        return (ids < 0) | (ids.long() >= vocabulary)

    inside = f"outside the vocabulary [0, {vocabulary})"
    refuse(outside(given["random_ids"]), given["random_ids"], "random_ids", IndexError, inside)
    refuse(kinds > 2, kinds, "kinds", ValueError, f"expected {_KINDS}")
    epoch, candidates = given["epoch"], given["candidates"]
    refuse((epoch < 0) | (epoch >= 2**32), epoch, "epoch", ValueError, "expected 0 to 2^32 - 1")
    if candidates is not None:
        start, end = candidates.unbind(-1)
        length = input_ids.shape[1]
        good = ((start == -1) & (end == -1)) | ((0 <= start) & (start < end) & (end <= length))
        expected = f"expected 0 <= start < end <= L = {length}, or -1, -1 as padding"
        refuse(~good, candidates, "candidates", IndexError, expected)
    refuse(outside(input_ids), input_ids, "input_ids", IndexError, inside)
