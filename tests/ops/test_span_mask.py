# SPDX-License-Identifier: Apache-2.0
"""span_mask: the rules by hand, the reference bit by bit, edges, bad input, compilation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from span_mask_samples import MASK, PAD, POOL, assert_equal, sample_inputs, table
from torch import Tensor

from spanbert_ext.ops import SpanMaskOutput, span_mask
from spanbert_ext.reference.span_mask import length_thresholds, philox4x32


def test_philox_known_answers():
    """The vectors published with the Random123 library for philox4x32, 10 rounds."""
    ones = 0xFFFFFFFF
    for key, counter, expected in [
        ((0, 0), (0, 0, 0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ones, ones), (ones, ones, ones, ones), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ]:
        assert " ".join(f"{word:08x}" for word in philox4x32(key, counter)) == expected


def test_philox_known_answer_through_the_operator():
    """Seed, sample and epoch 0 draw the first vector: anchor = floor(0xbc57ac4ce169c58d * L / 2^64)."""
    L = 1 << 20
    masked = span_mask(
        torch.full((1, L), 7),
        table(),
        POOL,
        seed=0,
        epoch=0,
        sample_ids=torch.zeros(1, dtype=torch.int64),
        mask_token_id=MASK,
        ratio=1 / L,
    )
    assert masked.masked_positions.tolist() == [[0xBC57A]]


# --- Six rows worked by hand ---
# Rows are [CLS], eight tokens with the ids 11..18, [SEP]; seed 0, epoch 0. P(length <= k) for p = 0.2, at
# most 10 words: .2241 .4033 .5467 .6614 .7532 .8266 .8853 .9323 .9699 1. The words of Philox, as shares of
# 2^32 or 2^64:
#
#   sample | proposals: length word / anchor word       | replacement by block      | random id by position
#     0    | .3990/.7357                                | 5: .4699                  |
#     1    | .9722/.6939                                | 5: .8853                  | 5: .2540 6: .4963
#          |                                            |                           | 7: .1993 8: .8348
#     2    | .0194/.1409 .0951/.1779 .5161/.1447        | 1: .1157 2: .4036         | 2: .2372
#          | .0673/.4682                                | 3: .5492 6: .6673         |
#     3    | .7874/.6046 .6196/.8113 .1173/.7454        | 3: .3198                  |
#     4    | .9345/.9421 .0997/.5708                    | 3: .3923 8: .0983         |
#     5    | .4503/.6703 .5012/.4712 .1761/.3799        | 2: .9568 6: .8198         | 6: .3837 7: .1083
BY_HAND = {
    # Budget ceil(.25 * 8) = 2. Two words from rank floor(.7357 * 8) = 5: position 6, whose word starts at 5.
    # The budget cuts that word (5, 6, 7) after 6. .4699 < .8: [MASK].
    "cut_inside_a_word": {
        "sample": 0,
        "kinds": [2, 1, 1, 0, 1, 1, 0, 0, 1, 2],
        "options": {"ratio": 0.25},
        "masked": {5: (MASK, 4, 7), 6: (MASK, 4, 7)},
    },
    # Seven tokens, budget ceil(3.5) = 4. Ten words from rank floor(.6939 * 7) = 4: position 6, word start 5,
    # up to [SEP]. .8853 lies between .8 and .9: random ids. The special at 4 is no boundary: no SBO.
    "stops_at_a_special": {
        "sample": 1,
        "kinds": [2, 1, 1, 0, 2, 1, 0, 1, 1, 2],
        "options": {"ratio": 0.5},
        "masked": {5: (102, -1, -1), 6: (104, -1, -1), 7: (101, -1, -1), 8: (108, -1, -1)},
    },
    # Budget 4. One word at rank floor(.1409 * 8) = 1: 2. One at rank floor(.1779 * 7) = 1 of 1 3 4 5 6 7 8:
    # 3. Three from rank 0 of 1 4 5 6 7 8: 1, through the masked 2 and 3. One at rank floor(.4682 * 5) = 2 of
    # 4 5 6 7 8: 6. Per token with shares .4 and .1: .1157 [MASK], .4036 random (pool index 2), .5492 and
    # .6673 kept.
    "through_masked_words_and_per_token": {
        "sample": 2,
        "kinds": [2, 1, 1, 1, 1, 1, 1, 1, 1, 2],
        "options": {"ratio": 0.5, "mask_share": 0.4, "replace_per_token": True},
        "masked": {1: (MASK, -1, -1), 2: (102, -1, -1), 3: (13, -1, -1), 6: (16, 5, 7)},
    },
    # Budget 6. Six words from rank floor(.6046 * 8) = 4: 5 6 7 8, then [SEP]. Four from rank floor(.8113 * 4)
    # = 3 of 1 2 3 4: 4, the rest is masked. One at rank floor(.7454 * 3) = 2 of 1 2 3: 3. All touch: one span
    # from 3, which ends at [SEP]: no SBO. With shares .2 and .1, .3198 keeps it.
    "touching_spans_merge": {
        "sample": 3,
        "kinds": [2, 1, 1, 1, 1, 1, 1, 1, 1, 2],
        "options": {"ratio": 0.75, "mask_share": 0.2},
        "masked": {i: (10 + i, -1, -1) for i in range(3, 9)},
    },
    # The 0 after [CLS] starts a word. Budget 4. Nine words from rank floor(.9421 * 8) = 7: 8, then [SEP]. One
    # word at rank floor(.5708 * 7) = 3: position 4, word 3..6, cut after 5. With two position slots, 5 has
    # none.
    "position_slots": {
        "sample": 4,
        "kinds": [2, 0, 0, 1, 0, 0, 0, 1, 1, 2],
        "options": {"ratio": 0.5, "position_slots": 2},
        "masked": {3: (MASK, 2, 6), 4: (MASK, 2, 6), 5: (MASK, -1, -1), 8: (MASK, -1, -1)},
    },
    # Budget ceil(4.8) = 5. Two candidates can start (one begins at [CLS]): index floor(.6703 * 2) = 1 of them
    # is 2..3; then 6..7; then one word at rank floor(.3799 * 4) = 1 of 1 4 5 8: 4. .9568 keeps 2..4, .8198 is
    # random.
    "candidates": {
        "sample": 5,
        "kinds": [2, 1, 1, 1, 1, 1, 1, 1, 1, 2],
        "options": {"ratio": 0.6, "candidates": torch.tensor([[[6, 8], [0, 3], [2, 4], [-1, -1]]])},
        "masked": {2: (12, 1, 5), 3: (13, 1, 5), 4: (14, 1, 5), 6: (103, 5, 8), 7: (101, 5, 8)},
    },
}


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("name", BY_HAND)
def test_rows_worked_by_hand_give_their_masks(name, impl):
    example = BY_HAND[name]
    ids = torch.tensor([[1, *range(11, 19), 2]])
    got = span_mask(
        ids,
        torch.tensor([example["kinds"]], dtype=torch.uint8),
        POOL,
        seed=0,
        epoch=0,
        sample_ids=torch.tensor([example["sample"]]),
        mask_token_id=MASK,
        impl=impl,
        **example["options"],
    )
    masked = example["masked"]
    unused = [-1] * (got.masked_positions.shape[1] - len(masked))
    assert got.masked_positions.tolist() == [[*masked, *unused]]
    assert got.left_boundary.tolist() == [[left for _, left, _ in masked.values()] + unused]
    assert got.right_boundary.tolist() == [[right for _, _, right in masked.values()] + unused]
    assert got.labels.tolist() == [[id if i in masked else -100 for i, id in enumerate(ids[0].tolist())]]
    expected = [masked[i][0] if i in masked else id for i, id in enumerate(ids[0].tolist())]
    assert got.masked_ids.tolist() == [expected]


# --- The reference, bit by bit ---


@st.composite
def calls(draw) -> dict:
    B, L = draw(st.integers(0, 3)), draw(st.sampled_from([0, 1, 2, 5, 9, 40, 63, 64, 65, 127, 128, 129, 200]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    ids = integers(draw(st.sampled_from([0, 5])), 100, B, L)
    call = sample_inputs() | {
        "input_ids": ids.to(draw(st.sampled_from([torch.int64, torch.int32]))),
        "seed": draw(st.integers(-(2**63), 2**63 - 1)),
        "epoch": draw(st.sampled_from([0, 7, 2**32 - 1])),
        "pad_token_id": draw(st.sampled_from([-1, PAD])),
        "ratio": draw(st.one_of(st.sampled_from([0.0, 0.15, 0.5, 1.0]), st.floats(0, 1))),
        "p": draw(st.one_of(st.sampled_from([0.2, 1.0]), st.floats(0.01, 1))),
        "max_words": draw(st.sampled_from([1, 2, 10, 64])),
        "position_slots": draw(st.sampled_from([0, 1, 3, 20])),
        "mask_share": draw(st.sampled_from([0.0, 0.3, 0.8])),
        "random_share": draw(st.sampled_from([0.0, 0.2])),
        "replace_per_token": draw(st.booleans()),
        "fill_after_candidates": draw(st.booleans()),
        "candidate_share": draw(st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))),
    }
    if draw(st.booleans()):
        call["epoch"] = integers(0, 2**32, B)
    if draw(st.booleans()):
        call["kinds"] = integers(0, 3, B, L).to(torch.uint8)
    if draw(st.booleans()):
        call["attention_mask"] = integers(0, 4, B, L).ne(0).to(draw(st.sampled_from(
            [torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64])))  # fmt: skip
    if draw(st.booleans()):
        call["sample_ids"] = integers(-(2**62), 2**62, B)
    if L > 0 and draw(st.booleans()):
        start = integers(0, L, B, draw(st.integers(0, 8)))
        end = (start + integers(1, 7, *start.shape)).clamp(max=L)
        absent = integers(0, 5, *start.shape) == 0
        call["candidates"] = torch.stack([start, end], -1).masked_fill(absent.unsqueeze(-1), -1)
    return call


@settings(max_examples=250, deadline=None, derandomize=True)
@given(calls())
def test_fused_is_the_reference_bit_for_bit(call):
    assert_equal(span_mask(**call), span_mask(**call, impl="reference"))


def test_length_thresholds_are_the_published_shares():
    shares = torch.tensor([0, *length_thresholds(0.2, 10), 2**32]).double().diff() / 2**32
    published = [0.2241, 0.1792, 0.1434, 0.1147, 0.0918, 0.0734, 0.0587, 0.0470, 0.0376, 0.0301]
    assert torch.allclose(shares, torch.tensor(published).double(), atol=6e-5)


# --- Invariants and edges ---


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.15, 0.5, 1.0])
@pytest.mark.parametrize("seed", [0, -1, -(2**63), 2**63 - 1])
def test_budget_is_exact_and_specials_stay(ratio, seed):
    call = sample_inputs(rows=32, length=131) | {"ratio": ratio, "seed": seed}
    call["input_ids"][:, 120:] = PAD
    call["attention_mask"] = (torch.arange(131) < 125).long().expand(32, -1)
    got = span_mask(**call)
    ids = call["input_ids"]
    special = call["kinds"][ids] == 2
    masked = got.labels >= 0
    budget = (ratio * (~special).sum(1).double()).ceil().long()
    assert torch.equal(masked.sum(1), budget)
    assert not (masked & special).any()
    assert torch.equal(got.labels[masked], ids[masked]) and torch.equal(got.masked_ids[~masked], ids[~masked])
    for b in range(32):
        positions = got.masked_positions[b]
        assert positions[positions >= 0].tolist() == masked[b].nonzero().squeeze(1).tolist()


def test_budget_is_one_double_product():
    """In float32, 0.15 * 100 is 15.000001: one token too many. K follows the same rule."""
    for n in range(1, 400):
        got = span_mask(torch.full((1, n), 7), table(), POOL, seed=1, epoch=0, mask_token_id=MASK)
        assert (got.labels >= 0).sum() == got.masked_positions.shape[1] == -(-15 * n // 100), n


def test_rows_of_specials_only_and_shorter_than_a_span_are_masked_right():
    call = sample_inputs() | {"ratio": 1.0, "p": 0.01}
    ids = torch.tensor([[1, 2, 0, 0], [1, 7, 2, 0], [7, 9, 11, 13]])
    got = span_mask(**call | {"input_ids": ids})
    assert got.masked_positions.tolist() == [[-1] * 4, [1, -1, -1, -1], [0, 1, 2, 3]]
    assert (got.left_boundary == -1).all() and (got.right_boundary == -1).all()


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0)])
def test_empty_batches_and_rows_are_accepted(shape):
    got = span_mask(**sample_inputs() | {"input_ids": torch.empty(shape, dtype=torch.int64)})
    K = -(-15 * shape[1] // 100)
    assert [tuple(x.shape) for x in got] == [shape, shape, *[(shape[0], K)] * 3]


def test_long_rows_equal_the_reference():
    call = sample_inputs(rows=1, length=8192)
    assert_equal(span_mask(**call), span_mask(**call, impl="reference"))


def test_threads_and_batch_split_change_nothing():
    call = sample_inputs(rows=64, length=700)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = span_mask(**call)
        torch.set_num_threads(8)
        assert_equal(span_mask(**call), whole)
    finally:
        torch.set_num_threads(threads)
    alone = [span_mask(**call | {"input_ids": call["input_ids"][b : b + 1]}) for b in range(64)]
    assert_equal(SpanMaskOutput(*(torch.cat(parts) for parts in zip(*alone, strict=True))), whole)


def test_seed_epoch_and_sample_change_the_masks():
    call = sample_inputs(rows=8)
    variants = [{}, {"seed": 0}, {"seed": 6}, {"seed": 5 + 2**32}, {"epoch": 3}]
    variants += [{"sample_ids": torch.arange(8) + offset} for offset in (0, 8, 2**32)]
    masks = [span_mask(**call | variant).labels for variant in variants]
    for i, a in enumerate(masks):
        assert all(not torch.equal(a, b) for b in masks[:i]), variants[i]


def test_default_sample_id_ignores_padding_alone():
    """The masked set depends on ids and their order, not on side or amount of padding. What replaces a
    token is drawn by its position: it stays the same under padding on the right alone."""
    call = sample_inputs(rows=4, length=40)
    ids = call["input_ids"]
    plain = span_mask(**call)
    for left, right, attended in [(0, 9, True), (30, 0, True), (3, 70, False)]:
        width = left + 40 + right
        padded = torch.full((4, width), PAD if not attended else 9)
        padded[:, left : left + 40] = ids
        mask = torch.zeros(4, width, dtype=torch.int64)
        mask[:, left : left + 40] = 1
        got = span_mask(**call | {"input_ids": padded, "attention_mask": mask if attended else None})
        assert torch.equal(got.labels[:, left : left + 40], plain.labels)
        assert left > 0 or torch.equal(got.masked_ids[:, :40], plain.masked_ids)
    swapped = ids.clone()
    swapped[:, [3, 9]] = ids[:, [9, 3]]
    assert not torch.equal(
        span_mask(**call | {"input_ids": swapped}).masked_positions, plain.masked_positions
    )


def test_inputs_are_not_changed_and_may_be_strided():
    call = sample_inputs(rows=5, length=90)
    plain = span_mask(**call)
    spread = torch.full((90, 10), 9)
    spread[:, ::2] = call["input_ids"].T
    tensors = {
        "input_ids": spread[:, ::2].T,
        "kinds": table().repeat_interleave(3)[::3],
        "random_ids": POOL.flip(0).repeat_interleave(2)[::2].flip(0),
        "seed": torch.tensor(5),
        "epoch": torch.tensor([2]).expand(5),
        "attention_mask": torch.ones(1, 1, dtype=torch.bool).expand(5, 90),
    }
    copies = {name: x.clone() for name, x in tensors.items()}
    assert_equal(span_mask(**call | tensors), plain)
    assert all(torch.equal(x, copies[name]) for name, x in tensors.items())


def test_int32_ids_give_the_same_masks():
    got, expected = (span_mask(**sample_inputs(dtype=dtype)) for dtype in (torch.int32, torch.int64))
    assert got.masked_ids.dtype == torch.int32 and got.labels.dtype == torch.int64
    assert torch.equal(got.masked_ids.long(), expected.masked_ids)
    assert all(torch.equal(x, y) for x, y in zip(got[1:], expected[1:], strict=True))


def test_candidates_alone_leave_the_budget_unmet():
    call = sample_inputs(rows=3, length=30) | {"ratio": 0.5, "fill_after_candidates": False}
    spans = torch.tensor([[[4, 6], [4, 6]], [[-1, -1], [9, 10]], [[-1, -1], [-1, -1]]])
    got = span_mask(**call, candidates=spans)
    assert [row[row >= 0].tolist() for row in got.masked_positions] == [[4, 5], [9], []]
    assert (span_mask(**call, candidates=spans[:, :0]).masked_positions == -1).all()
    assert ((span_mask(**call).labels >= 0).sum(1) == 14).all()  # no list at all: geometric spans
