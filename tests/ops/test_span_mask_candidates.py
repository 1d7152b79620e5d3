# SPDX-License-Identifier: Apache-2.0
"""span_mask's candidates: the share of the draws that mask one, by hand, by enumeration and as they always were."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch
from span_mask_samples import MASK, POOL, assert_equal, sample_inputs
from test_span_mask_distribution import assert_fits, chi_square, length_law, proposals

from spanbert_ext import build_info
from spanbert_ext.ops import SpanMaskOutput, span_mask

# --- Rows worked by hand ---
# As in test_span_mask.py: [CLS], eight words with the ids 11..18, [SEP]; seed 0, epoch 0; P(length <= k) .2241 .4033
# .5467 .6614 .7532 .8266 .8853 .9323 .9699 1. Each draw's own word, which is below the share for a candidate, comes
# first:
#
#   sample | draws: share word, length word / anchor word                          | replacement by block
#     8    | .9719 .2491/.9407  .1365 .4534/.3658  .5373 .6861/.3031  .7872 -/.0708 | 1: .9134 2: .5955 6: .4190
#     9    | .5451 .5895/.9472  .9019 .9431/.3992  .2745 .8170/.3142  .9934         | 2: .9878 8: .7042
BY_HAND = {
    # Budget 5. No candidate: two words from rank floor(.9407 * 8) = 7: 8, then [SEP]. A candidate, number
    # floor(.3658 * 2) = 0 of two: 6 7. None: five words from rank floor(.3031 * 5) = 1 of 1 2 3 4 5: 2 3, cut there.
    "half candidates, half spans": {
        "sample": 8,
        "options": {"ratio": 0.6, "candidates": [[6, 8], [2, 4], [-1, -1]]},
        "masked": {2: (MASK, 1, 4), 3: (MASK, 1, 4), **dict.fromkeys((6, 7, 8), (MASK, -1, -1))},
    },
    # The same draws of one word each: 8, the candidate 6 7, then 2, then rank floor(.0708 * 4) = 0 of 1 3 4 5: 1.
    # 1 and 2 are a span, which .9134 keeps.
    "half candidates, half words": {
        "sample": 8,
        "options": {"ratio": 0.6, "max_words": 1, "candidates": [[6, 8], [2, 4], [-1, -1]]},
        "masked": {1: (11, -1, -1), 2: (12, -1, -1), **dict.fromkeys((6, 7, 8), (MASK, -1, -1))},
    },
    # Budget 6. Words: 8, then rank floor(.3992 * 7) = 2 of 1..7: 3, inside the candidate. It may still start: 2. Then
    # no candidate is left, and nothing is to follow, although the fourth draw would have been no candidate either.
    "nothing after the candidates": {
        "sample": 9,
        "options": {
            "ratio": 0.75,
            "max_words": 1,
            "candidates": [[2, 4]],
            "fill_after_candidates": False,
        },
        "masked": {2: (12, 1, 4), 3: (13, 1, 4), 8: (MASK, -1, -1)},
    },
}


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("name", BY_HAND)
def test_rows_worked_by_hand_give_their_masks(name, impl):
    example = BY_HAND[name]
    ids = [1, *range(11, 19), 2]
    got = span_mask(
        torch.tensor([ids]),
        torch.tensor([[2, *[1] * 8, 2]], dtype=torch.uint8),
        POOL,
        seed=0,
        epoch=0,
        sample_ids=torch.tensor([example["sample"]]),
        mask_token_id=MASK,
        candidate_share=0.5,
        impl=impl,
        **example["options"] | {"candidates": torch.tensor([example["options"]["candidates"]])},
    )
    masked = example["masked"]
    unused = [-1] * (got.masked_positions.shape[1] - len(masked))
    assert got.masked_positions.tolist() == [[*masked, *unused]]
    assert got.left_boundary.tolist() == [[left for _, left, _ in masked.values()] + unused]
    assert got.right_boundary.tolist() == [[right for _, _, right in masked.values()] + unused]
    assert got.masked_ids.tolist() == [[masked[i][0] if i in masked else id for i, id in enumerate(ids)]]


# --- Masks that must never change: a run that is resumed under a later version goes on with its own ---


def candidate_rows(rows: int = 16, length: int = 150) -> dict:
    """A candidate of one to four tokens at every seventh position."""
    start = torch.arange(1, length - 1, 7).expand(rows, -1)
    sizes = 1 + (torch.arange(start.shape[1]) + torch.arange(rows).unsqueeze(1)) % 4
    spans = torch.stack([start, (start + sizes).clamp(max=length)], -1)
    return sample_inputs(rows=rows, length=length) | {"candidates": spans, "ratio": 0.3}


def digest(masked: SpanMaskOutput) -> str:
    return hashlib.sha256(b"".join(x.numpy().astype("<i8").tobytes() for x in masked)).hexdigest()[:16]


GOLDEN = {
    "no candidates": ({"candidates": None}, "ec8a6da293d17d73"),
    "candidates first": ({}, "8c3200c87b6b18e5"),
    "candidates alone": ({"fill_after_candidates": False, "ratio": 0.9}, "82e284847f1bfe5b"),
    "candidates, then words": ({"max_words": 1, "ratio": 0.6}, "64715a9e645f1181"),
    "half candidates": ({"candidate_share": 0.5}, "6473386f6be038fa"),
    "half candidates, half words": ({"candidate_share": 0.5, "max_words": 1}, "b0a7caa6a6bcaa8b"),
    "half candidates, nothing after": (
        {"candidate_share": 0.5, "fill_after_candidates": False, "ratio": 0.9},
        "4726337457b13f19",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_masks_stay_what_they_were(name):
    options, expected = GOLDEN[name]
    assert digest(span_mask(**candidate_rows() | options)) == expected


# --- The ends of the range ---


def test_share_one_masks_candidates_first_and_share_zero_none_of_them():
    call = candidate_rows()
    assert_equal(span_mask(**call, candidate_share=1.0), span_mask(**call))
    assert_equal(span_mask(**call, candidate_share=0.0), span_mask(**call | {"candidates": None}))


@pytest.mark.parametrize("share", [2**-33, 2**-32, 1 - 2**-33, 1 - 2**-32])
def test_shares_beside_zero_and_one(share):
    """In whole parts of 2^32: 2^-33 is none, and below one there is always a draw that masks no candidate."""
    call = candidate_rows(rows=4) | {"candidate_share": share}
    assert_equal(span_mask(**call), span_mask(**call, impl="reference"))


def test_rows_without_candidates_have_the_masks_of_no_list():
    call = candidate_rows(rows=4) | {"candidate_share": 0.5}
    none = torch.full_like(call["candidates"], -1)
    assert_equal(span_mask(**call | {"candidates": none}), span_mask(**call | {"candidates": None}))


def test_the_draws_of_the_share_move_no_other_draw():
    """Rows in which every draw took a candidate have the masks of share one, although draws were made."""
    call = candidate_rows(rows=200, length=40) | {"ratio": 0.1}
    first, half = span_mask(**call), span_mask(**call, candidate_share=0.5)
    same = (first.labels == half.labels).all(1)
    assert 0.2 < same.double().mean() < 0.9  # two draws or so a row, half of them candidates
    assert torch.equal(first.masked_ids[same], half.masked_ids[same])


# --- The law ---

KINDS = (1, 1, 0, 1, 2, 1, 1, 1)
CANDIDATES = ((0, 1), (1, 4), (5, 7), (6, 8))


def masked_set_law(share: float, fill: bool, budget: int, lengths: list[float]) -> dict[int, float]:
    """P(set of masked positions), as bit sets, of the row above, by following every sequence of draws."""
    normal = sum(1 << i for i, kind in enumerate(KINDS) if kind != 2)
    words = proposals(KINDS, lengths)
    unfinished, finished = {0: 1.0}, {}

    def add(masked: int, positions: range | list[int], chance: float) -> None:
        for i in positions:
            if masked.bit_count() < budget:
                masked |= 1 << i
        unfinished[masked] = unfinished.get(masked, 0.0) + chance

    while unfinished:
        masked, chance = min(unfinished.items(), key=lambda item: item[0].bit_count())
        del unfinished[masked]
        open_spans = [span for span in CANDIDATES if not masked >> span[0] & 1]
        if masked.bit_count() == budget or not (open_spans or fill):
            finished[masked] = finished.get(masked, 0.0) + chance
            continue
        for start, end in open_spans:
            add(masked, range(start, end), chance * share / len(open_spans))
        chance *= 1 - share if open_spans else 1
        free = normal & ~masked
        for tokens, draws in words:
            anchors = (tokens & free).bit_count()
            for positions, length_share in draws if anchors and chance else ():
                add(masked, positions, chance * anchors / free.bit_count() * length_share)
    return finished


@pytest.mark.skipif(build_info()["cuda_emulated"], reason="too many rows for emulated CUDA")
@pytest.mark.parametrize(
    ("share", "fill", "max_words", "ratio"),
    [
        (0.5, True, 10, 0.5),
        (0.5, True, 1, 0.7),
        (0.2, False, 1, 0.9),
        (0.8, True, 10, 0.3),
        (1.0, True, 1, 0.5),
    ],
)
def test_masked_sets_have_their_exact_distribution(share, fill, max_words, ratio):
    rows, L = 40_000, len(KINDS)
    masked = span_mask(
        torch.full((rows, L), 7, dtype=torch.int32),
        torch.tensor(KINDS, dtype=torch.uint8).expand(rows, L),
        POOL,
        seed=int(100 * share) + max_words,
        epoch=0,
        sample_ids=torch.arange(rows),
        candidates=torch.tensor(CANDIDATES).expand(rows, len(CANDIDATES), 2),
        mask_token_id=MASK,
        ratio=ratio,
        max_words=max_words,
        candidate_share=share,
        fill_after_candidates=fill,
    )
    sets = ((masked.labels >= 0) * (1 << torch.arange(L))).sum(1)
    law = masked_set_law(share, fill, math.ceil(ratio * 7), length_law(0.2, max_words))
    assert abs(sum(law.values()) - 1) < 1e-12
    counts = torch.bincount(sets, minlength=1 << L)[list(law)]
    assert counts.sum() == rows, "a set that cannot arise"
    assert_fits(*chi_square(counts, rows * torch.tensor(list(law.values()))))
