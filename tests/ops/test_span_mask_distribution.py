# SPDX-License-Identifier: Apache-2.0
"""The law of span_mask: masked sets by enumeration, first lengths, replacement shares, random ids."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from spanbert_ext import build_info
from spanbert_ext.ops import span_mask

# A million rows, one thread at a time: there, equality with the reference bit by bit must do.
pytestmark = pytest.mark.skipif(build_info()["cuda_emulated"], reason="too many rows for emulated CUDA")

MASK = 3
TABLE = torch.ones(200, dtype=torch.uint8)  # every id is a word
POOL = torch.arange(100, 110)
CONTINUES, SPECIAL = 0, 2
Pattern = tuple[int, ...]


# --- The masked sets of short rows ---


def row_patterns(length: int) -> list[Pattern]:
    """All rows of kinds but those that a 0 at the start or after a special makes equal to another."""
    return [
        kinds
        for kinds in itertools.product((0, 1, 2), repeat=length)
        if all(kind != CONTINUES or (i > 0 and kinds[i - 1] != SPECIAL) for i, kind in enumerate(kinds))
    ]


def length_law(p: float, max_words: int) -> list[float]:
    weights = [p * (1 - p) ** k for k in range(max_words)]
    return [weight / sum(weights) for weight in weights]


def proposals(kinds: Pattern, lengths: list[float]) -> list[tuple[int, list[tuple[list[int], float]]]]:
    """For each word: the bit set of its tokens, and the draws from it as (positions to mask, probability)."""
    words: list[list[int]] = []
    for i, kind in enumerate(kinds):
        if kind == CONTINUES:
            words[-1].append(i)
        elif kind != SPECIAL:
            words.append([i])
    result = []
    for first, word in enumerate(words):
        reach = 1  # whole words up to a special or the end
        while first + reach < len(words) and words[first + reach][0] == words[first + reach - 1][-1] + 1:
            reach += 1
        draws = [
            (
                list(range(word[0], words[first + k - 1][-1] + 1)),
                lengths[k - 1] if k < reach else sum(lengths[reach - 1 :]),
            )
            for k in range(1, min(reach, len(lengths)) + 1)
        ]
        result.append((sum(1 << i for i in word), draws))
    return result


def masked_set_law(kinds: Pattern, ratio: float, lengths: list[float]) -> dict[int, float]:
    """P(set of masked positions), as bit sets, by following every sequence of draws."""
    normal = sum(1 << i for i, kind in enumerate(kinds) if kind != SPECIAL)
    budget = math.ceil(ratio * normal.bit_count())
    words = proposals(kinds, lengths)
    unfinished, finished = {0: 1.0}, {}
    while unfinished:
        masked, chance = min(unfinished.items(), key=lambda item: item[0].bit_count())
        del unfinished[masked]
        if masked.bit_count() == budget:
            finished[masked] = chance
            continue
        free = normal & ~masked
        for tokens, draws in words:
            anchors = (tokens & free).bit_count()
            if anchors == 0:
                continue
            for positions, share in draws:
                after = masked
                for i in positions:
                    if after.bit_count() < budget:
                        after |= 1 << i
                chance_after = chance * anchors / free.bit_count() * share
                unfinished[after] = unfinished.get(after, 0.0) + chance_after
    return finished


def chi_square(counts: Tensor, expected: Tensor) -> tuple[float, int]:
    """Statistic and degrees of freedom of counts against expectations; cells below five are pooled."""
    assert (counts[expected == 0] == 0).all(), "something happened that cannot"
    small = expected < 5
    counts, expected = counts.double(), expected.double()
    cells = [(counts[~small], expected[~small])]
    if small.any():
        cells.append((counts[small].sum()[None], expected[small].sum()[None]))
    observed, wanted = (torch.cat(parts) for parts in zip(*cells, strict=True))
    kept = wanted > 0
    statistic = ((observed[kept] - wanted[kept]) ** 2 / wanted[kept]).sum()
    return float(statistic), int(kept.sum()) - 1


def assert_fits(statistic: float, degrees: int) -> None:
    chance = chi2.sf(statistic, degrees)
    assert 1e-3 < chance < 1 - 1e-3, (
        f"chi-square {statistic:.1f} at {degrees} degrees of freedom: p = {chance:.2g}"
    )


def sample_sets(patterns: list[Pattern], repeats: int, seed: int, **options: object) -> Tensor:
    """Bit sets of masked positions, `[patterns, repeats]`."""
    kinds = torch.tensor(patterns, dtype=torch.uint8)  # [P, L]
    P, L = kinds.shape
    rows = kinds.repeat_interleave(repeats, 0)
    masked = span_mask(
        torch.full((P * repeats, L), 7, dtype=torch.int32),
        rows,
        POOL,
        seed=seed,
        epoch=0,
        sample_ids=torch.arange(P * repeats),
        mask_token_id=MASK,
        **options,
    )
    return ((masked.labels >= 0) * (1 << torch.arange(L))).sum(1).view(P, repeats)


def check_sets(
    patterns: list[Pattern], ratio: float, repeats: int, seed: int, **options: object
) -> tuple[float, int]:
    """Chi-square over all patterns together; asserts each by itself at a level for their number."""
    lengths = length_law(options.get("p", 0.2), options.get("max_words", 10))
    sets = sample_sets(patterns, repeats, seed, ratio=ratio, **options)
    total, freedom = 0.0, 0
    for pattern, row in zip(patterns, sets, strict=True):
        law = masked_set_law(pattern, ratio, lengths)
        assert abs(sum(law.values()) - 1) < 1e-12
        counts = torch.bincount(row, minlength=1 << len(pattern))
        possible = torch.tensor(list(law))
        assert counts[possible].sum() == repeats, f"{pattern}: a set that cannot arise"
        statistic, degrees = chi_square(counts[possible], repeats * torch.tensor(list(law.values())))
        if degrees > 0:
            assert chi2.sf(statistic, degrees) * len(patterns) > 1e-3, pattern
            total, freedom = total + statistic, freedom + degrees
    return total, freedom


@pytest.mark.parametrize(("length", "repeats"), [(5, 4000), (6, 4000), (7, 3000), (8, 2000)])
def test_masked_sets_of_all_short_rows_have_their_exact_distribution(length, repeats):
    assert_fits(*check_sets(row_patterns(length), 0.5, repeats, seed=length))


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.15},
        {"ratio": 0.8},
        {"ratio": 0.5, "p": 0.6, "max_words": 3},
        {"ratio": 0.5, "max_words": 1},
    ],
)
def test_masked_sets_under_other_options(options):
    options = dict(options)
    assert_fits(*check_sets(row_patterns(6), options.pop("ratio"), 3000, seed=77, **options))


def test_a_continuation_without_a_word_starts_one():
    for length in (5, 6, 7, 8):
        raw = list(itertools.product((0, 1, 2), repeat=length))
        plain = [
            tuple(1 if k == 0 and (i == 0 or row[i - 1] == 2) else k for i, k in enumerate(row))
            for row in raw
        ]
        assert torch.equal(sample_sets(raw, 1, 3, ratio=0.5), sample_sets(plain, 1, 3, ratio=0.5))


def test_candidates_are_drawn_uniformly():
    """Spans 1..2, 3..4 and 4..5 of a row with specials around, budget 3: six orders of two draws."""
    rows = 30_000
    ids = torch.tensor([[0, 7, 7, 7, 7, 7, 0]]).expand(rows, 7)
    table = TABLE.clone()
    table[0] = SPECIAL
    masked = span_mask(
        ids,
        table,
        POOL,
        seed=2,
        epoch=0,
        sample_ids=torch.arange(rows),
        candidates=torch.tensor([[1, 3], [3, 5], [4, 6]]).expand(rows, 3, 2),
        mask_token_id=MASK,
        ratio=0.6,
    )
    sets = ((masked.labels >= 0) * (1 << torch.arange(7))).sum(1)
    # 1 2, then 3 or 4 | 3 4, then 1 (4 is masked: cannot start) | 4 5, then 1 or 3, half each
    law = {
        0b0001110: 1 / 6,
        0b0010110: 1 / 6,
        0b0011010: 1 / 3,
        0b0110010: 1 / 6,
        0b0111000: 1 / 6,
    }
    counts = torch.bincount(sets, minlength=128)[list(law)]
    assert counts.sum() == rows
    assert_fits(*chi_square(counts, rows * torch.tensor(list(law.values()))))


# --- The first draw ---


@pytest.mark.parametrize(("p", "max_words"), [(0.2, 10), (0.5, 4)])
@pytest.mark.parametrize("tokens_in_word", [1, 2])
def test_first_length_is_truncated_geometric(p, max_words, tokens_in_word):
    """With a budget of b tokens a row shows its draws up to b: the first span ends where one token more lands
    elsewhere. The anchor is free of the length, so rows that start near the end are left out."""
    rows, L = 10_000, 1024
    kinds = (torch.arange(L) % tokens_in_word == 0).to(torch.uint8).expand(rows, L)
    lengths = torch.zeros(rows, dtype=torch.int64)
    for budget in range(1, max_words * tokens_in_word + 1):
        masked = span_mask(
            torch.full((rows, L), 7, dtype=torch.int32),
            kinds,
            POOL,
            seed=11,
            epoch=0,
            sample_ids=torch.arange(rows),
            mask_token_id=MASK,
            ratio=(budget - 0.5) / L,
            p=p,
            max_words=max_words,
        ).masked_positions
        if budget == 1:
            start = masked[:, 0]
        run = masked == (start.unsqueeze(1) + torch.arange(budget))
        lengths = torch.where(run.all(1) & (lengths == budget - 1), budget, lengths)
    lengths = lengths[start < L - max_words * tokens_in_word]
    assert (start % tokens_in_word == 0).all() and (lengths % tokens_in_word == 0).all()
    counts = torch.bincount(lengths // tokens_in_word, minlength=max_words + 1)[1:]
    assert counts.sum() == lengths.numel() > 9_500
    assert_fits(*chi_square(counts, lengths.numel() * torch.tensor(length_law(p, max_words))))


def test_first_anchor_is_uniform_over_tokens():
    """Words of one and of three tokens: the longer start three times as often."""
    rows, L = 20_000, 64
    kinds = torch.tensor([1, 1, 0, 0] * 16, dtype=torch.uint8).expand(rows, L)
    first = span_mask(
        torch.full((rows, L), 7),
        kinds,
        POOL,
        seed=4,
        epoch=1,
        sample_ids=torch.arange(rows),
        mask_token_id=MASK,
        ratio=1 / L,
    ).masked_positions[:, 0]
    assert_fits(*chi_square(torch.bincount(first, minlength=L), rows * torch.tensor([1, 3, 0, 0] * 16) / L))


# --- Replacement ---


@pytest.mark.parametrize(("mask_share", "random_share"), [(0.8, 0.1), (0.3, 0.5)])
def test_replacement_shares_per_span(mask_share, random_share):
    rows, L = 10_000, 128
    masked = span_mask(
        torch.full((rows, L), 7),
        TABLE,
        POOL,
        seed=8,
        epoch=0,
        sample_ids=torch.arange(rows),
        mask_token_id=MASK,
        mask_share=mask_share,
        random_share=random_share,
    )
    is_masked = masked.labels >= 0
    action = torch.where(masked.masked_ids == MASK, 0, torch.where(masked.masked_ids >= 100, 1, 2))  # [B, L]
    inside = is_masked[:, 1:] & is_masked[:, :-1]
    assert torch.equal(action[:, 1:][inside], action[:, :-1][inside])  # one draw for a span
    first = is_masked.clone()
    first[:, 1:] &= ~is_masked[:, :-1]
    counts = torch.bincount(action[first], minlength=3)
    shares = torch.tensor([mask_share, random_share, 1 - mask_share - random_share])
    assert counts.sum() > 30_000
    assert_fits(*chi_square(counts, counts.sum() * shares))

    drawn = masked.masked_ids[is_masked & (action == 1)]
    assert_fits(*chi_square(torch.bincount(drawn - 100, minlength=10), torch.full((10,), drawn.numel() / 10)))
    both_random = inside & (action[:, 1:] == 1)
    pairs = (masked.masked_ids[:, :-1][both_random] - 100) * 10 + masked.masked_ids[:, 1:][both_random] - 100
    expected = torch.full((100,), pairs.numel() / 100)
    assert_fits(*chi_square(torch.bincount(pairs, minlength=100), expected))  # each token its own draw


def test_replacement_per_token_is_independent():
    rows, L = 5_000, 100
    masked = span_mask(
        torch.full((rows, L), 7),
        TABLE,
        POOL,
        seed=9,
        epoch=0,
        sample_ids=torch.arange(rows),
        mask_token_id=MASK,
        ratio=1.0,
        replace_per_token=True,
    )
    action = torch.where(masked.masked_ids == MASK, 0, torch.where(masked.masked_ids >= 100, 1, 2))
    pairs = (action[:, ::2] * 3 + action[:, 1::2]).flatten()
    shares = torch.tensor([0.8, 0.1, 0.1])
    expected = pairs.numel() * torch.outer(shares, shares).flatten()
    assert_fits(*chi_square(torch.bincount(pairs, minlength=9), expected))
