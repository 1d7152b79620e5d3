# SPDX-License-Identifier: Apache-2.0
"""SpanMasker and MaskedBatch."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch

from spanbert_ext.masking.masker import MaskedBatch, SpanMasker
from spanbert_ext.ops import span_mask


def masker(**options: object) -> SpanMasker:
    """Ids 0..4 special (0 is padding, 4 the mask), odd ids start a word, even ones continue one."""
    kinds = [2] * 5 + [i % 2 for i in range(5, 60)]
    return SpanMasker(kinds, 4, 60, **{"pad_token_id": 0} | options)


def batch_of_ids(rows: int = 6, length: int = 50) -> torch.Tensor:
    ids = torch.randint(5, 60, (rows, length), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, -1] = 1, 2
    return ids


def equal(a: MaskedBatch, b: MaskedBatch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.as_dict().values(), b.as_dict().values(), strict=True))


def test_the_masker_is_the_operator():
    ids = batch_of_ids()
    attention = torch.ones_like(ids)
    attention[:, 40:] = 0
    own = masker(ratio=0.3, p=0.4, max_words=5, position_slots=2, mask_share=0.5, random_share=0.3)
    got = own(ids, attention, seed=3, epoch=torch.arange(6), sample_ids=range(6))
    expected = span_mask(
        ids,
        own.kinds,
        torch.arange(5, 60),
        seed=3,
        epoch=torch.arange(6),
        attention_mask=attention,
        sample_ids=torch.arange(6),
        mask_token_id=4,
        pad_token_id=0,
        ratio=0.3,
        p=0.4,
        max_words=5,
        position_slots=2,
        mask_share=0.5,
        random_share=0.3,
    )
    assert equal(got, MaskedBatch(*expected))


def test_schemes_of_the_paper():
    ids = batch_of_ids(rows=64)
    kinds = masker().kinds[ids]
    begins = (kinds == 1) | ((kinds == 0) & (kinds.roll(1, 1) == 2))  # [B, L]

    def masked(**options: object) -> torch.Tensor:
        return masker(ratio=0.02, **options)(ids).labels >= 0  # one token a row

    def mean_span(**options: object) -> float:
        spans = [end - start for row in masker(**options)(ids).spans() for start, end in row]
        return sum(spans) / len(spans)

    assert begins[masked()].all() and begins[masked(scheme="words")].all()
    assert not begins[masked(scheme="tokens")].all()  # a token inside a word is masked alone
    assert mean_span(scheme="tokens") < mean_span(scheme="words") < mean_span()
    explicit = masker(scheme="tokens")(ids, token_kinds=kinds)
    assert equal(explicit, masker(scheme="tokens")(ids))


def test_replacement_per_token():
    ids = batch_of_ids(rows=200)
    share = {}
    for replacement in ("span", "token"):
        got = masker(replacement=replacement)(ids)
        inside = (got.labels[:, 1:] >= 0) & (got.labels[:, :-1] >= 0)
        is_mask = got.input_ids == 4
        share[replacement] = (is_mask[:, 1:] == is_mask[:, :-1])[inside].float().mean()
    assert share["span"] == 1 and share["token"] < 0.8


def test_token_kinds_take_the_place_of_the_table():
    ids = torch.full((4, 30), 5)  # words of one token by the table
    kinds = (torch.arange(30) % 10 == 0).long().expand(4, 30)
    got = masker(ratio=1 / 3, scheme="words")(ids, token_kinds=kinds)
    assert {span for row in got.spans() for span in row} <= {
        (a, b) for a in (0, 10, 20) for b in (10, 20, 30)
    }
    again = masker(ratio=1 / 3, scheme="words")(ids, token_kinds=kinds.numpy())
    assert equal(got, again)
    with pytest.raises(ValueError, match=r"token_kinds has shape \[4, 29\].*\[4, 30\]"):
        masker()(ids, token_kinds=kinds[:, 1:])
    with pytest.raises(TypeError, match=r"token_kinds is torch\.float32"):
        masker()(ids, token_kinds=kinds.float())


def test_candidates_are_masked_first():
    got = masker(ratio=0.1)(torch.full((1, 30), 7), candidates=np.array([[[4, 7]]]))
    assert got.spans() == [[(4, 7)]]
    stop = masker(ratio=0.5, fill_after_candidates=False)
    assert stop(torch.full((1, 30), 7), candidates=[[[4, 7]]]).spans() == [[(4, 7)]]


def test_a_share_of_the_draws_masks_candidates_and_the_others_what_the_scheme_says():
    """Words of one token, candidates of five ten apart: the paper's entities, and single words between them."""
    ids = torch.full((300, 80), 7)
    spans = torch.tensor([[start, start + 5] for start in range(0, 80, 10)]).expand(300, 8, 2)
    call = {"candidates": spans, "sample_ids": torch.arange(300)}
    half = masker(ratio=0.15, scheme="words", candidate_share=0.5)(ids, **call)  # 12 tokens
    runs = torch.tensor([end - start for row in half.spans() for start, end in row])
    assert 0.25 < (runs >= 5).double().mean() < 0.6 and (runs == 1).double().mean() > 0.3
    none = masker(ratio=0.15, scheme="words", candidate_share=0.0)(ids, **call)
    assert equal(none, masker(ratio=0.15, scheme="words")(ids, sample_ids=call["sample_ids"]))
    spans_too = masker(ratio=0.15, candidate_share=0.5)(ids, **call)
    assert not equal(spans_too, half)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16, ">i8"])
def test_arrays_in_arrays_out(dtype):
    ids = batch_of_ids()
    array = ids.numpy().astype(dtype)
    array.flags.writeable = False
    got = masker()(array, np.ones(ids.shape, dtype=np.int64), epoch=np.arange(6), sample_ids=np.arange(6))
    assert all(isinstance(x, np.ndarray) for x in got.as_dict().values())
    assert got.input_ids.dtype == (np.int32 if dtype is np.int32 else np.int64)
    expected = masker()(ids, epoch=torch.arange(6), sample_ids=torch.arange(6))
    assert got.spans() == expected.spans()
    moved = got.to("cpu")
    assert torch.equal(moved.labels, expected.labels)
    assert equal(masker()(np.asfortranarray(array)[::-1]).to("cpu"), masker()(ids.flip(0)))


def test_the_callers_data_stay_as_they_were():
    ids, kinds, pool = batch_of_ids(), torch.ones(60, dtype=torch.uint8), torch.arange(5, 60)
    before = ids.clone()
    own = SpanMasker(kinds, 4, 60, random_ids=pool, ratio=1.0)
    own(ids), own(ids.numpy())
    assert torch.equal(ids, before)
    expected = own(ids)
    kinds.fill_(2), pool.fill_(0)
    assert equal(own(ids), expected)


def test_workers_mask_alike():
    ids = batch_of_ids()
    own = masker(ratio=0.3)
    expected = own(ids, seed=1, epoch=2)
    for copied in (pickle.loads(pickle.dumps(own)), copy.deepcopy(own)):
        assert equal(copied(ids, seed=1, epoch=2), expected)
    assert not equal(own(ids, seed=1, epoch=3), expected)


def test_the_tables_follow_the_input():
    own = masker()
    got = own(batch_of_ids().to("meta"))
    assert got.labels.device.type == "meta" and got.masked_positions.shape == (6, 8)
    tables = own.tables_on(torch.device("meta"))
    assert tables[0].device.type == "meta"
    assert all(a is b for a, b in zip(tables, own.tables_on(torch.device("meta")), strict=True))
    assert pickle.loads(pickle.dumps(own))._tables == {}


def test_spans_of_a_batch():
    positions = torch.tensor([[1, 2, 5, 7, 8, -1], [-1] * 6, [0, 1, 2, 3, 4, 5]])
    batch = MaskedBatch(positions, positions, positions, positions, positions)
    assert batch.spans() == [[(1, 3), (5, 6), (7, 9)], [], [(0, 6)]]
    assert list(batch.as_dict()) == [
        "input_ids",
        "labels",
        "masked_positions",
        "left_boundary",
        "right_boundary",
    ]


def test_compiled_masker():
    own, ids = masker(), batch_of_ids()
    compiled = torch.compile(
        lambda ids, epoch: own(ids, epoch=epoch).as_dict(), fullgraph=True, backend="aot_eager"
    )
    for epoch in range(3):
        got = compiled(ids, torch.tensor(epoch))
        assert all(torch.equal(x, own(ids, epoch=epoch).as_dict()[name]) for name, x in got.items())


def test_words_longer_than_six_tokens_warn_once():
    kinds = [2, 1, 0]
    long, short = torch.tensor([[1] + [2] * 49]), torch.tensor([[1, 2] * 25])
    own = SpanMasker(kinds, 0, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own(long.repeat(10, 1))  # 500 tokens: too few to tell
        SpanMasker(kinds, 0, 3)(short.repeat(40, 1))
        SpanMasker(kinds, 0, 3, scheme="tokens")(long.repeat(40, 1))
        SpanMasker(kinds, 0, 3)(long.repeat(40, 1), token_kinds=torch.ones(40, 50, dtype=torch.uint8))
    with pytest.warns(UserWarning, match=r"1000 tokens make 20 words.*token_kinds"):
        own(long.repeat(10, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own(long.repeat(40, 1))
