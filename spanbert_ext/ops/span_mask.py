# SPDX-License-Identifier: Apache-2.0
"""span_mask: word-aligned geometric span sampling, replacement, labels and SBO indices for a whole batch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from spanbert_ext import reference
from spanbert_ext.ops import _span_mask_checks
from spanbert_ext.ops._autograd import by_name
from spanbert_ext.ops._common import (
    Impl,
    check_tensors,
    expect_one_device,
    flag,
    integer,
    may_read_values,
    real,
    require_kernels,
    shown,
    use_reference,
)
from spanbert_ext.reference.outputs import SpanMaskOutput

_FLOATS = ("ratio", "p", "mask_share", "random_share", "candidate_share")
_INTS = ("mask_token_id", "pad_token_id", "max_words", "position_slots")
_BOOLS = ("replace_per_token", "fill_after_candidates")


def span_mask(
    input_ids: Tensor,
    kinds: Tensor,
    random_ids: Tensor,
    *,
    seed: int | Tensor,
    epoch: int | Tensor,
    attention_mask: Tensor | None = None,
    sample_ids: Tensor | None = None,
    candidates: Tensor | None = None,
    vocab_size: int | None = None,
    mask_token_id: int,
    pad_token_id: int = -1,
    ratio: float = 0.15,
    p: float = 0.2,
    max_words: int = 10,
    position_slots: int = 20,
    mask_share: float = 0.8,
    random_share: float = 0.1,
    replace_per_token: bool = False,
    fill_after_candidates: bool = True,
    candidate_share: float = 1.0,
    impl: Impl = "fused",
) -> SpanMaskOutput:
    """Masks spans of whole words (SpanBERT 2.1) and finds the boundaries of each (2.2).

    The masks of a row depend on its ids, its sample id, `seed` and `epoch` alone: not on the batch, the
    device or the number of threads. Inputs are not changed.

    Args:
        input_ids: int64 or int32 `[B, L]`, L < 2^28.
        kinds: uint8, a table `[V]` by id or explicit kinds `[B, L]`: 0 continues a word, 1 starts one, 2 is
            special (never masked, never a boundary). A 0 at the row's start or after a special starts a word.
        random_ids: int64 `[R]`, ids for random replacement; may be empty when `random_share` is 0.
        seed: an int64; a tensor has no dimension. Negative numbers are their two's complement.
        epoch: 0 to 2^32 - 1; a tensor is int64 without dimension, or `[B]`.
        attention_mask: bool or integer `[B, L]`; positions with 0 are padding.
        sample_ids: int64 `[B]`; by default a hash of the row's ids without padding.
        candidates: int64 `[B, M, 2]`, half-open token spans `[start, end)` padded with -1 (entities, noun
            phrases). Open are those whose start is neither masked nor special. While there is one, a proposal draws
            one of them with the probability `candidate_share` and masks it up to its end or a special. The other
            proposals, and those that follow, are geometric spans; single whole words with `max_words=1`.
        vocab_size: what ids are checked against when `kinds` is explicit; a table says it by its length.
        mask_token_id: the id of `[MASK]`.
        pad_token_id: positions with this id are padding; -1: there is none.
        ratio: share of the non-special tokens to mask, rounded up.
        p, max_words: span lengths are geometric with `p`, truncated to 1..max_words (at most 64) words.
        position_slots: tokens of a span beyond this many have no SBO target.
        mask_share, random_share: a span becomes [MASK], random ids, or stays, with these shares and the rest.
        replace_per_token: draw that per token, as BERT does, not per span.
        fill_after_candidates: False leaves the budget unmet when no candidate is open.
        candidate_share: see `candidates`.
        impl: `fused` (compiled) or `reference` (plain Python, slow, the specification).

    Raises:
        TypeError: a dtype is wrong.
        ValueError: a shape, a device or an option is wrong.
        IndexError: an id or a candidate is out of range.
        RuntimeError: this build has no kernel for the device.
    """
    plain = use_reference(impl)
    tensors = {"input_ids": input_ids, "kinds": kinds, "random_ids": random_ids}
    optional = {"attention_mask": attention_mask, "sample_ids": sample_ids, "candidates": candidates}
    check_tensors("span_mask", tensors, optional)
    seed = _scalar_tensor(seed, "seed", input_ids.device)
    epoch = _scalar_tensor(epoch, "epoch", input_ids.device)
    check_tensors("span_mask", {"input_ids": input_ids, "seed": seed, "epoch": epoch})
    options = _as_options(
        vocab_size=vocab_size,
        mask_token_id=mask_token_id,
        pad_token_id=pad_token_id,
        ratio=ratio,
        p=p,
        max_words=max_words,
        position_slots=position_slots,
        mask_share=mask_share,
        random_share=random_share,
        replace_per_token=replace_per_token,
        fill_after_candidates=fill_after_candidates,
        candidate_share=candidate_share,
    )
    if plain:
        given = {**tensors, "seed": seed, "epoch": epoch, **optional, **options}
        if not torch.compiler.is_compiling():
            _span_mask_checks.check_arguments(given)
        if may_read_values(input_ids):
            _span_mask_checks.check_values(given)
        return reference.span_mask(**given)
    require_kernels("span_mask", "input_ids", input_ids)
    masked = _OPS.span_mask(input_ids, kinds, random_ids, seed, epoch, **optional, **options)
    return SpanMaskOutput(*masked)


def _as_options(**options: Any) -> dict[str, Any]:
    """Both implementations compute with the same doubles and ints."""
    for name in _FLOATS:
        options[name] = real(f"span_mask: {name}", options[name])
    for name in _INTS:
        options[name] = integer(f"span_mask: {name}", options[name])
    for name in _BOOLS:
        options[name] = flag(f"span_mask: {name}", options[name])
    if options["vocab_size"] is not None:
        options["vocab_size"] = integer("span_mask: vocab_size", options["vocab_size"])
    return options


def _scalar_tensor(value: int | Tensor, name: str, device: torch.device) -> Tensor:
    """An int becomes an int64 tensor without dimension."""
    if isinstance(value, Tensor):
        return value
    try:
        value = integer(f"span_mask: {name}", value)
    except TypeError:
        raise TypeError(f"span_mask: {name} is {shown(value)}, expected an int or an int64 tensor") from None
    return torch.full((), value, dtype=torch.int64, device=device)


_OPS = torch.ops.spanbert_ext
_SCHEMA = _OPS.span_mask.default._schema


@torch.library.register_fake("spanbert_ext::span_mask")
def _span_mask_fake(*arguments: Any, **options: Any) -> tuple[Tensor, ...]:
    given = by_name(_SCHEMA, arguments) | options
    expect_one_device("span_mask", given)
    _span_mask_checks.check_arguments(given)
    input_ids = given["input_ids"]
    B, L = input_ids.shape
    K = math.ceil(given["ratio"] * L)
    masked_ids = input_ids.new_empty((B, L))
    labels = input_ids.new_empty((B, L), dtype=torch.int64)
    index = [input_ids.new_empty((B, K), dtype=torch.int64) for _ in range(3)]
    return masked_ids, labels, *index
