# SPDX-License-Identifier: Apache-2.0
"""The NumPy form of the paper's masking: budget, whole words, span lengths, replacement, targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from bench_runs import import_from_benchmarks  # noqa: F401

CONTINUES, STARTS, SPECIAL = 0, 1, 2
MASK = 3
KINDS = np.array([SPECIAL] * 4 + [STARTS, STARTS, CONTINUES] * 40, dtype=np.uint8)  # [124]


def published(seed: int = 0, **options: Any) -> Any:
    from providers.published_span_masking import PublishedSpanMasker

    return PublishedSpanMasker(KINDS, MASK, np.arange(4, len(KINDS)), seed, **options)


def rows(count: int, length: int, seed: int = 0) -> np.ndarray:
    """Ids with [CLS] first, a [SEP] in the middle and at the end, padding behind it."""
    ids = np.random.default_rng(seed).integers(4, len(KINDS), (count, length))
    ids[:, 0], ids[:, length // 2], ids[:, -4], ids[:, -3:] = 1, 2, 2, 0
    return ids


def test_published_masking_meets_the_budget_and_spares_special_tokens() -> None:
    ids = rows(64, 80)
    batch = published()(ids)
    masked = batch.labels != -100
    assert not masked[KINDS[ids] == SPECIAL].any()
    assert (masked.sum(1) == math.ceil(0.15 * (80 - 6))).all()
    assert (batch.labels[masked] == ids[masked]).all() and (batch.input_ids[~masked] == ids[~masked]).all()


def test_published_masking_takes_whole_words_but_for_the_cut_of_the_last() -> None:
    masker = published(ratio=0.3)
    spans_in_all = 0
    for row in rows(64, 80):
        spans = masker.choose_spans(row)
        spans_in_all += len(spans)
        for begin, _ in spans:
            assert KINDS[row[begin]] == STARTS or KINDS[row[begin - 1]] == SPECIAL
        assert sum(KINDS[row[end]] == CONTINUES for _, end in spans) <= 1
        for (_, end), (begin, _) in zip(spans, spans[1:], strict=False):
            assert end < begin  # what touches is one span
    assert spans_in_all > 128


def test_published_masking_never_crosses_a_special_token() -> None:
    row = rows(1, 80)[0]
    masker = published(ratio=0.9)  # long spans
    for _ in range(20):
        assert not any((KINDS[row[begin:end]] == SPECIAL).any() for begin, end in masker.choose_spans(row))


def test_published_span_lengths_are_the_papers() -> None:
    words = np.array([2] * 4 + [STARTS] * 120, dtype=np.uint8)
    masker = published(ratio=1e-4)  # a budget of one token ends a row after its first span
    masker.kinds = words
    shares = 0.2 * 0.8 ** np.arange(10)
    assert masker.length_cdf == pytest.approx(np.cumsum(shares / shares.sum()))
    assert (np.arange(1, 11) * np.diff(masker.length_cdf, prepend=0)).sum() == pytest.approx(3.8, abs=0.01)


def test_published_replacement_is_one_draw_a_span() -> None:
    masker = published(seed=3)
    whole = {"mask": 0, "kept": 0, "random": 0}
    for row in rows(400, 80):
        batch = masker(row[None])
        for left, right in batch.pairs[0]:
            found, original = batch.input_ids[0, left + 1 : right], row[left + 1 : right]
            if len(found) < 3:  # random ids may be the original ones by chance
                continue
            outcome = "mask" if (found == MASK).all() else "kept" if (found == original).all() else "random"
            assert outcome != "random" or MASK not in found
            whole[outcome] += 1
    total = sum(whole.values())
    assert total > 500
    assert whole["mask"] / total == pytest.approx(0.8, abs=0.06)
    assert whole["random"] / total == pytest.approx(0.1, abs=0.05)


def test_published_targets_are_the_spans_tokens() -> None:
    ids = rows(8, 80)
    batch = published(ratio=0.4, position_slots=4)(ids)
    for b, row in enumerate(ids):
        for (left, right), targets in zip(batch.pairs[b], batch.pair_targets[b], strict=True):
            expected = row[left + 1 : right][:4]
            assert (targets[: len(expected)] == expected).all() and (targets[len(expected) :] == -100).all()
