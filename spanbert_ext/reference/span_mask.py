# SPDX-License-Identifier: Apache-2.0
"""span_mask in plain Python integers, rule by rule and token by token: the specification. Slow on purpose.

Takes and returns what `spanbert_ext.ops.span_mask` does; seed and epoch are tensors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from spanbert_ext.reference.outputs import SpanMaskOutput

CONTINUES, STARTS, SPECIAL = 0, 1, 2
PROPOSAL, REPLACEMENT, RANDOM_ID, CANDIDATE = 0, 1, 2, 3  # the streams of a row's random numbers

_M32, _M64 = 2**32 - 1, 2**64 - 1


def philox4x32(key: tuple[int, int], counter: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 (Salmon et al. 2011): four 32-bit words from a 64-bit key and a 128-bit counter."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _M32, (k1 + 0xBB67AE85) & _M32
    return c0, c1, c2, c3


class RowRandom(NamedTuple):
    """The random numbers of one row: a pure function of stream and draw index."""

    seed: int
    sample: int
    epoch: int

    def draw(self, stream: int, index: int) -> tuple[int, int, int, int]:
        seed, sample = self.seed & _M64, self.sample & _M64  # two's complement
        counter = (sample & _M32, sample >> 32, self.epoch, stream * 2**28 + index)
        return philox4x32((seed & _M32, seed >> 32), counter)


def length_thresholds(p: float, max_words: int) -> list[int]:
    """floor(2^32 * P(length <= k)) for k = 1..max_words-1, of the truncated and renormalised geometric."""
    weights = [p]
    for _ in range(max_words - 1):
        weights.append(weights[-1] * (1.0 - p))
    cumulative = []
    total = 0.0
    for weight in weights:
        total = total + weight
        cumulative.append(total)
    return [math.floor(c / total * 2.0**32) for c in cumulative[:-1]]


def _mix64(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _M64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _M64
    return x ^ (x >> 31)


def default_sample_id(ids: list[int]) -> int:
    """The sample id of a row whose tokens without padding are `ids`."""
    golden = 0x9E3779B97F4A7C15
    total = len(ids) * golden
    for rank, token in enumerate(ids):
        product = (token + golden & _M64) * ((2 * rank + 1) * golden & _M64)
        total += (product & _M64) ^ (product >> 64)
    return _mix64(total & _M64)


def _sample_row(
    kinds: list[int],
    random: RowRandom,
    ratio: float,
    lengths: list[int],
    candidates: list[tuple[int, int]] | None,
    fill: bool,
    candidate_below: int,
) -> set[int]:
    """The positions to mask. `kinds` by position, `lengths` the thresholds, `fill`: fill_after_candidates."""
    L = len(kinds)
    normal = [i for i in range(L) if kinds[i] != SPECIAL]
    word_start = {i for i in normal if kinds[i] == STARTS or i == 0 or kinds[i - 1] == SPECIAL}
    budget = math.ceil(ratio * len(normal))
    masked: set[int] = set()
    d = 0
    while len(masked) < budget:
        words = random.draw(PROPOSAL, d)
        takes_candidate = random.draw(CANDIDATE, d)[0] < candidate_below
        d += 1
        u64 = (words[2] << 32) | words[1]
        open_candidates = [c for c in candidates or [] if c[0] in normal and c[0] not in masked]
        if candidates is not None and not open_candidates and not fill:
            break
        if open_candidates and takes_candidate:
            start, end = open_candidates[u64 * len(open_candidates) >> 64]
            length = None
        else:
            length = 1 + sum(threshold <= words[0] for threshold in lengths)
            anchors = [i for i in normal if i not in masked]
            start, end = anchors[u64 * len(anchors) >> 64], L
            while start not in word_start:
                start -= 1
        words_begun = 0
        for i in range(start, end):
            words_begun += i in word_start
            if kinds[i] == SPECIAL or len(masked) == budget or (length is not None and words_begun > length):
                break
            masked.add(i)
    return masked


def span_mask(
    input_ids: Tensor,
    kinds: Tensor,
    random_ids: Tensor,
    *,
    seed: Tensor,
    epoch: Tensor,
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
) -> SpanMaskOutput:
    """See `spanbert_ext.ops.span_mask`: the same arguments, results and meaning."""
    B, L = input_ids.shape
    K = math.ceil(ratio * L)
    masked_ids = input_ids.clone(memory_format=torch.contiguous_format)  # [B, L]
    labels = input_ids.new_full((B, L), -100, dtype=torch.int64)
    indices = input_ids.new_full((3, B, K), -1, dtype=torch.int64)  # masked position, left and right boundary
    pool = random_ids.tolist()
    lengths = length_thresholds(p, max_words)
    mask_below = math.floor(mask_share * 2.0**32)
    random_below = math.floor((mask_share + random_share) * 2.0**32)
    candidate_below = math.floor(candidate_share * 2.0**32)
    _check_ids(input_ids, kinds, vocab_size)

    for b in range(B):
        ids = input_ids[b].tolist()
        row_kinds = (kinds[b] if kinds.dim() == 2 else kinds[input_ids[b].long()]).tolist()
        padding = [token == pad_token_id for token in ids]
        if attention_mask is not None:
            attended = attention_mask[b].tolist()
            padding = [pad or not keep for pad, keep in zip(padding, attended, strict=True)]
        row_kinds = [SPECIAL if pad else kind for kind, pad in zip(row_kinds, padding, strict=True)]
        if sample_ids is None:
            sample = default_sample_id([token for token, pad in zip(ids, padding, strict=True) if not pad])
        else:
            sample = int(sample_ids[b])
        random = RowRandom(int(seed), sample, int(epoch if epoch.dim() == 0 else epoch[b]))
        spans = None
        if candidates is not None:
            spans = [(start, end) for start, end in candidates[b].tolist() if start >= 0]
        masked = _sample_row(row_kinds, random, ratio, lengths, spans, fill_after_candidates, candidate_below)

        for entry, i in enumerate(sorted(masked)):
            start = end = i
            while start - 1 in masked:
                start -= 1
            while end + 1 in masked:
                end += 1
            labels[b, i] = ids[i]
            indices[0, b, entry] = i
            outside = [row_kinds[j] if 0 <= j < L else SPECIAL for j in (start - 1, end + 1)]
            if SPECIAL not in outside and i - start < position_slots:
                indices[1, b, entry], indices[2, b, entry] = start - 1, end + 1
            choice = random.draw(REPLACEMENT, i if replace_per_token else start)[0]
            if choice < mask_below:
                masked_ids[b, i] = mask_token_id
            elif choice < random_below:
                words = random.draw(RANDOM_ID, i)
                masked_ids[b, i] = pool[((words[1] << 32) | words[0]) * len(pool) >> 64]
    return SpanMaskOutput(masked_ids, labels, *indices)


def _check_ids(input_ids: Tensor, kinds: Tensor, vocab_size: int | None) -> None:
    if kinds.dim() == 1:
        vocab_size = kinds.numel()
    ids = input_ids.long()  # an int32 cannot be compared with 2^31
    bad = ids < 0 if vocab_size is None else (ids < 0) | (ids >= vocab_size)
    if bad.any():
        b, i = bad.nonzero()[0].tolist()
        found = int(input_ids[b, i])
        raise IndexError(f"span_mask: input_ids[{b}, {i}] is {found}, outside [0, {vocab_size})")
