# SPDX-License-Identifier: Apache-2.0
"""What SpanMasker is given: nothing is rounded or cast to a type that cannot hold it; messages name the argument."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_masker import batch_of_ids, equal, masker

from spanbert_ext.masking.batching import explicit_kinds
from spanbert_ext.masking.masker import MaskedBatch, SpanMasker

KIND = r"expected 0 \(continues a word\), 1 \(starts a word\) or 2 \(special\)"
UINT64 = np.array([1, 2**63 + 5, 3, 4, 5, 6], dtype=np.uint64)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ratio": 1.5}, ValueError, "ratio is 1.5"),
        ({"p": 0}, ValueError, "p is 0"),
        ({"max_words": 0}, ValueError, "max_words is 0"),
        ({"scheme": "entities"}, ValueError, "scheme is 'entities'.*'geometric', 'words', 'tokens'"),
        ({"scheme": torch.ones(3)}, ValueError, "scheme is torch.float32; expected one of 'geometric'"),
        ({"replacement": "none"}, ValueError, "replacement is 'none'"),
        ({"random_ids": [60]}, IndexError, r"random_ids\[0\] is 60"),
        ({"random_ids": []}, ValueError, "random_ids is empty"),
        ({"random_ids": [[5, 6]]}, ValueError, r"random_ids has shape \[1, 2\]; expected \[R\]"),
        ({"random_ids": [5, 6.2]}, TypeError, r"random_ids\[1\] is 6\.2 \(float\); expected token ids"),
        ({"random_ids": np.array([5.9, 6.2])}, TypeError, "random_ids is an array of float64; expected"),
        ({"random_ids": torch.tensor([5.0, 6.0])}, TypeError, "random_ids is torch.float32; expected"),
        ({"random_ids": "56"}, TypeError, r"random_ids is '56' \(str\); expected"),
        ({"random_ids": [5, 2**64]}, ValueError, r"random_ids\[1\] is 18446744073709551616; expected"),
        ({"mask_share": 0.95}, ValueError, "mask_share"),
        ({"mask_share": None}, TypeError, "mask_share is None; expected a number"),
        ({"random_share": "0.1"}, TypeError, r"random_share is '0\.1' \(str\); expected a number"),
        ({"ratio": torch.tensor(0.15)}, TypeError, "ratio is a tensor of torch.float32; expected a number"),
        ({"ratio": True}, TypeError, r"ratio is True \(bool\); expected a number"),
        ({"ratio": 10**400}, ValueError, r"ratio is 1000.*\.\.\. \(int\); expected a number"),
        ({"p": [0.2]}, TypeError, "p is a list; expected a number"),
        ({"max_words": 10.0}, TypeError, r"max_words is 10\.0 \(float\); expected an integer"),
        ({"max_words": np.array([3, 4])}, TypeError, "max_words is an array of int64; expected an integer"),
        ({"position_slots": "20"}, TypeError, r"position_slots is '20' \(str\); expected an integer"),
        ({"position_slots": 2**63}, ValueError, "position_slots is 9223372036854775808.*int64"),
        ({"pad_token_id": torch.tensor(0)}, TypeError, "pad_token_id is a tensor of torch.int64; expected"),
        ({"candidate_share": -0.1}, ValueError, r"candidate_share is -0\.1"),
        ({"candidate_share": "0.5"}, TypeError, r"candidate_share is '0\.5' \(str\); expected a number"),
        ({"fill_after_candidates": 1}, TypeError, "fill_after_candidates is 1 .*expected True or False"),
    ],
)
def test_options_are_checked_when_the_masker_is_made(options, error, message):
    with pytest.raises(error, match=message):
        masker(**options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1, 1, 1], 0, 4), ValueError, r"kinds has shape \[3\].*\[4\]"),
        (([1, 5, 1], 0, 3), ValueError, rf"kinds\[1\] is 5; {KIND}"),
        (([1, 256, 1], 0, 3), ValueError, rf"kinds\[1\] is 256; {KIND}"),
        ((torch.tensor([1, 1, -1]), 0, 3), ValueError, rf"kinds\[2\] is -1; {KIND}"),
        ((np.array([1, 1, 3], dtype=np.uint8), 0, 3), ValueError, rf"kinds\[2\] is 3; {KIND}"),
        (([1.0, 1.0, 1.0], 0, 3), TypeError, r"kinds\[0\] is 1\.0 \(float\); expected integers, 0 \(con"),
        (([True, False, True], 0, 3), TypeError, r"kinds\[0\] is True \(bool\)"),
        ((None, 0, 3), TypeError, "kinds is None; expected integers"),
        (("112", 0, 3), TypeError, r"kinds is '112' \(str\); expected integers"),
        (([1, [1], 1], 0, 3), TypeError, "kinds is a list; expected integers.* in rows of one length"),
        ((1, 0, 3), ValueError, r"kinds has shape \[\].*\[3\]"),
        (([1, 1, 1], 3, 3), IndexError, "mask_token_id is 3"),
        (([1, 1, 1], 0.0, 3), TypeError, r"mask_token_id is 0\.0 \(float\); expected an integer"),
        (([1, 1, 1], True, 3), TypeError, r"mask_token_id is True \(bool\); expected an integer"),
        (([1, 1, 1], 0, "3"), TypeError, r"vocab_size is '3' \(str\); expected an integer"),
    ],
)
def test_the_vocabulary_is_checked(arguments, error, message):
    with pytest.raises(error, match=message):
        SpanMasker(*arguments)


def test_a_tokenizer_is_expected():
    with pytest.raises(
        TypeError, match=r"tokenizer is 'bert-base-cased' \(str\); expected a transformers tok"
    ):
        SpanMasker.from_tokenizer("bert-base-cased")


def kinds_with(value: float, dtype: torch.dtype) -> torch.Tensor:
    kinds = torch.ones(6, 50, dtype=dtype)
    kinds[2, 3] = value
    return kinds


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epoch": -1}, ValueError, "epoch is -1"),
        ({"epoch": 1.9}, TypeError, r"epoch is 1\.9 \(float\); expected integers in 0"),
        ({"epoch": -0.5}, TypeError, r"epoch is -0\.5 \(float\)"),
        ({"epoch": float("nan")}, TypeError, r"epoch is nan \(float\)"),
        ({"epoch": 2.0}, TypeError, r"epoch is 2\.0 \(float\)"),
        ({"epoch": True}, TypeError, r"epoch is True \(bool\)"),
        ({"epoch": np.float64(3)}, TypeError, r"epoch is 3\.0 \(float64\)"),
        ({"epoch": torch.tensor(1.5)}, TypeError, "epoch is a tensor of torch.float32"),
        ({"epoch": np.arange(6) + 0.5}, TypeError, "epoch is an array of float64"),
        ({"epoch": [0, 1, 2, 3, 4, 5.5]}, TypeError, r"epoch\[5\] is 5\.5 \(float\)"),
        ({"epoch": [0, 1, 2, 3, 4, -5]}, ValueError, r"epoch\[5\] is -5"),
        ({"epoch": "3"}, TypeError, r"epoch is '3' \(str\)"),
        ({"seed": True}, TypeError, r"seed is True \(bool\); expected an integer"),
        ({"seed": 1.0}, TypeError, r"seed is 1\.0 \(float\)"),
        ({"seed": 2**64}, ValueError, r"seed is 18446744073709551616 \(int\); expected .* that int64"),
        ({"sample_ids": [1.5, 1.9, 1, 1, 1, 1]}, TypeError, r"sample_ids\[0\] is 1\.5 \(float\)"),
        ({"sample_ids": torch.arange(6.0)}, TypeError, "sample_ids is torch.float32; expected integers"),
        ({"sample_ids": torch.ones(6, dtype=torch.bool)}, TypeError, "sample_ids is torch.bool"),
        ({"sample_ids": UINT64}, ValueError, r"sample_ids\[1\] is 9223372036854775813; expected"),
        ({"sample_ids": torch.from_numpy(UINT64)}, ValueError, r"sample_ids\[1\] is 9223372036854775813"),
        ({"sample_ids": UINT64.tolist()}, ValueError, r"sample_ids\[1\] is 9223372036854775813"),
        ({"candidates": torch.full((6, 1, 2), 1.5)}, TypeError, "candidates is torch.float32"),
        ({"candidates": [[[1, 2.5]]] * 6}, TypeError, r"candidates\[0, 0, 1\] is 2\.5 \(float\)"),
        ({"candidates": "ab"}, TypeError, r"candidates is 'ab' \(str\)"),
        ({"token_kinds": kinds_with(256, torch.int64)}, ValueError, rf"token_kinds\[2, 3\] is 256; {KIND}"),
        ({"token_kinds": kinds_with(257, torch.int32)}, ValueError, r"token_kinds\[2, 3\] is 257"),
        ({"token_kinds": kinds_with(-1, torch.int8)}, ValueError, r"token_kinds\[2, 3\] is -1"),
        ({"token_kinds": kinds_with(258, torch.int16).numpy()}, ValueError, r"token_kinds\[2, 3\] is 258"),
        ({"token_kinds": kinds_with(3, torch.uint8)}, ValueError, r"kinds\[2, 3\] is 3"),
        ({"token_kinds": kinds_with(1, torch.bool)}, TypeError, "token_kinds is torch.bool"),
        (
            {"token_kinds": kinds_with(1, torch.float64).numpy()},
            TypeError,
            "token_kinds is an array of float64",
        ),
        (
            {"attention_mask": torch.ones(6, 50).tolist()},
            TypeError,
            r"attention_mask\[0, 0\] is 1\.0 \(float\)",
        ),
        ({"attention_mask": torch.ones(6, 50)}, TypeError, "attention_mask is torch.float32"),
        ({"attention_mask": [[1], [1, 2]]}, TypeError, "attention_mask is a list.*rows of one length"),
        (
            {"token_kinds": kinds_with(1, torch.int64).to_sparse()},
            TypeError,
            "token_kinds is a tensor of layout",
        ),
        ({"sample_ids": torch.arange(6, device="meta")}, ValueError, "sample_ids is on meta"),
    ],
)
@pytest.mark.parametrize("arrays", [False, True], ids=["tensors", "arrays"])
def test_a_calls_arguments_are_checked(options, error, message, arrays):
    ids = batch_of_ids()
    with pytest.raises(error, match=message):
        masker()(ids.numpy() if arrays else ids, **options)


def test_ids_are_checked():
    with pytest.raises(TypeError, match="input_ids is a list"):
        masker()([[5, 6]])
    with pytest.raises(TypeError, match="input_ids is an array of float64"):
        masker()(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"input_ids\[0, 1\] is 9223372036854775813"):
        masker()(UINT64[None])


def test_every_integer_that_fits_is_taken():
    ids, own = batch_of_ids(), masker()
    expected = own(ids, epoch=torch.arange(6), sample_ids=torch.arange(6), token_kinds=own.kinds[ids])
    for dtype in (
        torch.int8,
        torch.int16,
        torch.int32,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
    ):
        kinds, numbers = own.kinds[ids].to(dtype), torch.arange(6).to(dtype)
        for form in (lambda x: x, lambda x: x.numpy(), lambda x: x.tolist()):
            got = own(ids, epoch=form(numbers), sample_ids=form(numbers), token_kinds=form(kinds))
            assert equal(got, expected), dtype
    for epoch in (np.int8(3), np.array(3), torch.tensor(3, dtype=torch.int32), torch.tensor(3)):
        assert equal(own(ids, epoch=epoch), own(ids, epoch=3))
    mask = torch.ones_like(ids)
    mask[:, 30:] = 0
    for attention in (
        mask.bool(),
        mask.bool().numpy(),
        mask.tolist(),
        mask.bool().tolist(),
        mask.to(torch.uint16),
    ):
        assert equal(own(ids, attention), own(ids, mask))
    assert own(ids, sample_ids=range(6)).spans() == own(ids, sample_ids=torch.arange(6)).spans()


def test_numbers_of_other_types_are_the_same_options():
    own = masker(
        ratio=np.float32(0.25), max_words=np.int64(5), mask_share=1, random_share=0, position_slots=np.int8(7)
    )
    assert (own.ratio, own.max_words, own.mask_share, own.position_slots) == (0.25, 5, 1.0, 7)
    assert [type(x) for x in (own.ratio, own.max_words, own.mask_share)] == [float, int, float]


def test_where_elements_are_not_read_a_kind_out_of_range_is_special(monkeypatch):
    """As on a GPU: 256 must not become 0, nor 257 a 1."""
    ids, own = batch_of_ids(), masker(ratio=1.0)
    kinds = torch.ones_like(ids)
    kinds[:, 10:20] = torch.tensor([256, 257, 258, -1, -255, 3, 2**40, -(2**63), 511, 1000])
    monkeypatch.setattr("spanbert_ext.masking.checks.may_read_values", lambda x: False)
    handed_over = []
    monkeypatch.setattr(
        "spanbert_ext.masking.masker.span_mask",
        lambda ids, kinds, *args, **options: handed_over.append(kinds) or (ids,) * 5,
    )
    own(ids, token_kinds=kinds)
    assert (handed_over[0][:, 10:20].int() & 2).all()  # the bit of a special token in the kernel
    assert torch.equal(handed_over[0][:, :10], kinds[:, :10].byte())
    with pytest.raises(TypeError, match=r"sample_ids is torch.uint64 on cpu; expected int64"):
        own(ids, sample_ids=torch.arange(6).to(torch.uint64))


class TestExplicitKinds:
    table = torch.tensor([2, 1, 0, 1], dtype=torch.uint8)
    ids = torch.tensor([[0, 1, 2], [3, 2, 0]])

    def test_by_hand(self):
        assert explicit_kinds(self.table, self.ids, None, None) is None
        special = torch.tensor([[0, 1, 0], [0, 0, 0]])
        for mask in (special, special.bool(), special.to(torch.uint16)):
            assert explicit_kinds(self.table, self.ids, None, mask).tolist() == [[2, 2, 0], [1, 0, 2]]
        kinds = torch.tensor([[1, 1, 1], [0, 0, 0]])
        assert explicit_kinds(self.table, self.ids, kinds, special).tolist() == [[1, 2, 1], [0, 0, 0]]

    @pytest.mark.parametrize(
        ("kinds", "special", "error", "message"),
        [
            (None, torch.zeros(2, 2), ValueError, r"special_tokens_mask has shape \[2, 2\]; .*\[2, 3\]"),
            (torch.ones(2, 3, 1), None, ValueError, r"token_kinds has shape \[2, 3, 1\]; .*\[2, 3\]"),
            (None, torch.full((2, 3), 2), ValueError, r"special_tokens_mask\[0, 0\] is 2; expected 0 or 1"),
            (
                None,
                torch.zeros(2, 3),
                TypeError,
                "special_tokens_mask is torch.float32; expected zeros and ones",
            ),
            (torch.full((2, 3), 256), None, ValueError, r"token_kinds\[0, 0\] is 256"),
        ],
    )
    def test_bad_columns(self, kinds, special, error, message):
        with pytest.raises(error, match=message):
            explicit_kinds(self.table, self.ids, kinds, special)


class TestRepr:
    def test_masker(self):
        assert repr(masker()) == "SpanMasker(vocab_size=60, special_ids=5, mask_token_id=4, pad_token_id=0)"
        changed = masker(ratio=0.3, scheme="words", fill_after_candidates=False, max_words=10)
        assert repr(changed) == (
            "SpanMasker(vocab_size=60, special_ids=5, mask_token_id=4, ratio=0.3, pad_token_id=0, scheme='words', "
            "fill_after_candidates=False)"
        )
        assert "mask_share=0.5" in repr(masker(mask_share=0.5))
        assert repr(masker(candidate_share=0.5)).endswith(", candidate_share=0.5)")

    def test_batch(self):
        ids = batch_of_ids(rows=2, length=12)
        got = masker(ratio=0.2)(ids.int())
        assert repr(got) == (
            "MaskedBatch(input_ids=int32[2, 12], labels=int64[2, 12], masked_positions=int64[2, 3], "
            "left_boundary=int64[2, 3], right_boundary=int64[2, 3], device='cpu', masked_tokens=4)"
        )
        assert repr(masker(ratio=0.2)(ids.numpy())) == repr(got).replace("int32", "int64").replace(
            " device='cpu',", ""
        )
        elsewhere = repr(got.to("meta"))
        assert "device='meta'" in elsewhere and "masked_tokens" not in elsewhere  # nothing is read there

    def test_inside_fake_tensors(self):
        with torch._subclasses.FakeTensorMode():
            fake = MaskedBatch(*(torch.ones(2, 3, dtype=torch.int64) for _ in range(5)))
            assert repr(fake).endswith("right_boundary=int64[2, 3], device='cpu')")
