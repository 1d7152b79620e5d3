# SPDX-License-Identifier: Apache-2.0
"""span_mask as an operator: opcheck, torch.compile, devices, and what it says about bad input."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from span_mask_samples import MASK, POOL, assert_equal, sample_inputs, table

from spanbert_ext.ops import span_mask

OPTIONS = {
    "attention_mask": None,
    "sample_ids": None,
    "candidates": None,
    "vocab_size": None,
    "mask_token_id": MASK,
    "pad_token_id": 0,
    "ratio": 0.15,
    "p": 0.2,
    "max_words": 10,
    "position_slots": 20,
    "mask_share": 0.8,
    "random_share": 0.1,
    "replace_per_token": False,
    "fill_after_candidates": True,
    "candidate_share": 0.5,
}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("shape", [(3, 129), (1, 1), (0, 7)])
def test_opcheck(shape, dtype):
    ids = torch.randint(0, 100, shape, dtype=dtype)
    args = (ids, table(), POOL, torch.tensor(1), torch.tensor(2))
    for candidates in (None, torch.tensor([0, 1]).expand(len(ids), 3, 2)):
        options = OPTIONS | {"candidates": candidates}
        torch.library.opcheck(torch.ops.spanbert_ext.span_mask.default, args, options)


def test_compiled_without_graph_breaks_and_fresh_in_every_epoch():
    call = sample_inputs()
    compiled = torch.compile(span_mask, fullgraph=True)
    for epoch in range(3):
        step = call | {"seed": torch.tensor(9), "epoch": torch.tensor(epoch)}
        assert_equal(compiled(**step), span_mask(**step))


@pytest.mark.parametrize("ratio", [0.15, 0.1])
def test_compiled_with_dynamic_shapes(ratio):
    """K = ceil(ratio * L) must hold for a symbolic L, in the same double arithmetic, and for what uses it."""
    torch._dynamo.reset()

    def labels_of_slots(ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = span_mask(ids, table(), POOL, seed=3, epoch=0, mask_token_id=MASK, ratio=ratio)
        return *out, out.labels.gather(1, out.masked_positions.clamp(min=0)) + out.left_boundary

    compiled = torch.compile(labels_of_slots, fullgraph=True, dynamic=True, backend="aot_eager")
    for L in [8, 19, 20, 21, 99, 100, 101, 140, 180, 200, 512, 1000]:
        ids = sample_inputs(rows=3, length=L)["input_ids"]
        got, expected = compiled(ids), labels_of_slots(ids)
        assert all(torch.equal(x, y) for x, y in zip(got, expected, strict=True)), L


def test_meta_tensors_give_shapes():
    call = sample_inputs(rows=2, length=30)
    moved = {name: x.to("meta") if isinstance(x, torch.Tensor) else x for name, x in call.items()}
    assert [tuple(x.shape) for x in span_mask(**moved)] == [(2, 30), (2, 30), (2, 5), (2, 5), (2, 5)]


def bad(**changes: object) -> dict:
    return sample_inputs(rows=2, length=10) | changes


IDS = sample_inputs(rows=2, length=10)["input_ids"]
BAD_INPUTS = {
    "id above": (
        bad(input_ids=IDS + 196),
        IndexError,
        r"input_ids\[0, \d\] is 2\d\d, .*\[0, 200\).*tokenizer",
    ),
    "id negative": (bad(input_ids=IDS - 2), IndexError, r"input_ids\[0, 0\] is -1"),
    "explicit kinds, id above": (
        bad(
            kinds=torch.ones(2, 10, dtype=torch.uint8),
            vocab_size=50,
            mask_token_id=3,
            random_ids=POOL - 80,
            input_ids=torch.full((2, 10), 50),
        ),
        IndexError,
        r"input_ids\[0, 0\] is 50.*\[0, 50\)",
    ),
    "explicit kinds, id negative": (
        bad(kinds=torch.ones(2, 10, dtype=torch.uint8), input_ids=-IDS),
        IndexError,
        r"input_ids\[0, 0\] is -1",
    ),
    "explicit kind": (
        bad(kinds=torch.full((2, 10), 3, dtype=torch.uint8)),
        ValueError,
        r"kinds\[0, 0\] is 3",
    ),
    "table kind": (
        bad(kinds=torch.full((200,), 7, dtype=torch.uint8)),
        ValueError,
        r"kinds\[0\] is 7.*0.*1.*2",
    ),
    "ids dtype": (bad(input_ids=IDS.float()), TypeError, "input_ids is Float.*int64 or int32"),
    "ids shape": (bad(input_ids=IDS[0]), ValueError, r"input_ids has shape \[10\].*\[B, L\]"),
    "kinds dtype": (bad(kinds=table().long()), TypeError, "kinds is Long.*Byte"),
    "kinds shape": (bad(kinds=table().reshape(10, 20)), ValueError, r"kinds has shape \[10, 20\].*\[2, 10\]"),
    "kinds empty": (bad(kinds=table()[:0]), ValueError, r"kinds has shape \[0\]"),
    "vocab_size": (bad(vocab_size=199), ValueError, "vocab_size is 199.*200"),
    "random_ids dtype": (bad(random_ids=POOL.int()), TypeError, "random_ids is Int.*Long"),
    "random_ids shape": (bad(random_ids=POOL[None]), ValueError, r"random_ids has shape \[1, 10\]"),
    "random_ids content": (bad(random_ids=POOL + 95), IndexError, r"random_ids\[5\] is 200.*\[0, 200\)"),
    "random_ids empty": (bad(random_ids=POOL[:0]), ValueError, "random_ids is empty.*random_share is 0.1"),
    "seed type": (bad(seed=1.5), TypeError, r"seed is 1.5 \(float\)"),
    "seed size": (bad(seed=2**63), ValueError, "seed is 9223372036854775808"),
    "seed shape": (bad(seed=torch.zeros(2, dtype=torch.int64)), ValueError, r"seed has shape \[2\]"),
    "seed dtype": (bad(seed=torch.tensor(1.0)), TypeError, "seed is Float.*Long"),
    "epoch high": (bad(epoch=2**32), ValueError, r"epoch is 4294967296.*2\^32"),
    "epoch negative": (bad(epoch=torch.tensor([0, -1])), ValueError, r"epoch\[1\] is -1"),
    "epoch shape": (
        bad(epoch=torch.zeros(3, dtype=torch.int64)),
        ValueError,
        r"epoch has shape \[3\].*\[2\]",
    ),
    "attention dtype": (bad(attention_mask=torch.ones(2, 10)), TypeError, "attention_mask is Float"),
    "attention unsigned": (
        bad(attention_mask=torch.ones(2, 10).to(torch.uint16)),
        TypeError,
        "attention_mask is UInt16",
    ),
    "attention shape": (
        bad(attention_mask=torch.ones(2, 9).bool()),
        ValueError,
        r"attention_mask has .*\[2, 10\]",
    ),
    "sample_ids dtype": (bad(sample_ids=torch.zeros(2)), TypeError, "sample_ids is Float"),
    "sample_ids shape": (
        bad(sample_ids=torch.zeros(3).long()),
        ValueError,
        r"sample_ids has shape \[3\].*\[2\]",
    ),
    "candidates shape": (
        bad(candidates=torch.zeros(2, 1).long()),
        ValueError,
        r"candidates has .*\[B, M, 2\]",
    ),
    "candidates dtype": (bad(candidates=torch.zeros(2, 1, 2)), TypeError, "candidates is Float"),
    "candidates end": (
        bad(candidates=torch.tensor([[[1, 2]], [[3, 11]]])),
        IndexError,
        r"candidates\[1, 0\] is \[3, 11\).*L = 10",
    ),
    "candidates empty span": (
        bad(candidates=torch.tensor([[[3, 3]]] * 2)),
        IndexError,
        r"candidates\[0, 0\]",
    ),
    "candidates half pad": (bad(candidates=torch.tensor([[[-1, 3]]] * 2)), IndexError, r"candidates\[0, 0\]"),
    "mask_token_id": (bad(mask_token_id=200), IndexError, r"mask_token_id is 200.*\[0, 200\)"),
    "ratio": (bad(ratio=1.01), ValueError, r"ratio is 1.01.*\[0, 1\]"),
    "ratio nan": (bad(ratio=float("nan")), ValueError, "ratio is nan"),
    "p": (bad(p=0.0), ValueError, r"p is 0.*\(0, 1\]"),
    "max_words low": (bad(max_words=0), ValueError, "max_words is 0.*1 to 64"),
    "max_words high": (bad(max_words=65), ValueError, "max_words is 65"),
    "position_slots": (bad(position_slots=-1), ValueError, "position_slots is -1"),
    "mask_share": (bad(mask_share=-0.1), ValueError, "mask_share is -0.1"),
    "candidate_share": (bad(candidate_share=1.5), ValueError, r"candidate_share is 1\.5.*\[0, 1\]"),
    "candidate_share nan": (bad(candidate_share=float("nan")), ValueError, "candidate_share is nan"),
    "candidate_share type": (
        bad(candidate_share="half"),
        TypeError,
        r"candidate_share is 'half' \(str\); expected a number",
    ),
    "shares": (bad(mask_share=0.95), ValueError, r"mask_share \+ random_share is 1.05"),
    "impl": (bad(impl="slow"), ValueError, "impl is 'slow'"),
    "impl type": (bad(impl=None), ValueError, "impl is None"),
    "no tensor": (bad(kinds=[0, 1]), TypeError, "kinds is a list, expected a tensor"),
    "no optional tensor": (
        bad(sample_ids=3),
        TypeError,
        r"sample_ids is 3 \(int\), expected a tensor or None",
    ),
    "layout": (bad(input_ids=IDS.to_sparse()), ValueError, "input_ids is a torch.sparse_coo tensor"),
    "ratio type": (bad(ratio="0.3"), TypeError, r"ratio is '0\.3' \(str\); expected a number"),
    "ratio tensor": (
        bad(ratio=torch.tensor(0.3)),
        TypeError,
        "ratio is a tensor of torch.float32; expected a number",
    ),
    "ratio beyond doubles": (bad(ratio=10**400), ValueError, "ratio is 1000.*within a double's range"),
    "max_words type": (bad(max_words=3.0), TypeError, r"max_words is 3\.0 \(float\); expected an int"),
    "max_words bool": (bad(max_words=True), TypeError, r"max_words is True \(bool\); expected an int"),
    "pad_token_id size": (
        bad(pad_token_id=2**63),
        ValueError,
        r"pad_token_id is 9223372036854775808 .*that int64 can hold",
    ),
    "replace_per_token type": (
        bad(replace_per_token=1),
        TypeError,
        r"replace_per_token is 1 \(int\); expected True or False",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_named(name):
    call, error, message = BAD_INPUTS[name]
    with pytest.raises(error, match=message):
        span_mask(**call)


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_the_reference_refuses_what_the_operator_refuses(name):
    call, error, _ = BAD_INPUTS[name]
    argument = name.split()[0].removesuffix("s")  # "shares" and "ids" are beginnings of an argument's name
    with pytest.raises(error, match=f"impl|span_mask: .*({argument}|_ids|kind|tensor|_id)"):
        span_mask(**{"impl": "reference"} | call)


@pytest.mark.parametrize("number", [np.float32, np.float64, lambda x: Fraction(x)])
def test_both_implementations_compute_with_the_same_double(number):
    """float32's 0.3 is above 0.3: of 20 tokens it masks 7."""
    call = sample_inputs(rows=2, length=20) | {"ratio": number(0.3)}
    fused, plain = span_mask(**call), span_mask(**call, impl="reference")
    assert_equal(fused, plain)
    assert fused.masked_positions.shape[1] == (7 if number is np.float32 else 6)


@pytest.mark.parametrize("vocab_size", [2**31, 2**40, None])
def test_int32_ids_and_a_vocabulary_beyond_int32(vocab_size):
    call = sample_inputs(rows=2, length=20, dtype=torch.int32)
    call |= {"kinds": torch.ones(2, 20, dtype=torch.uint8), "vocab_size": vocab_size}
    assert_equal(span_mask(**call), span_mask(**call, impl="reference"))


def test_tensors_on_several_devices_are_refused():
    with pytest.raises(ValueError, match="random_ids is on meta, expected cpu as input_ids"):
        span_mask(**bad(random_ids=POOL.to("meta")))


def test_the_first_bad_row_is_named_whatever_the_threads():
    ids = sample_inputs(rows=64, length=700)["input_ids"]
    ids[17, 5] = ids[40, 0] = 1000
    for _ in range(5):
        with pytest.raises(IndexError, match=r"input_ids\[17, 5\] is 1000"):
            span_mask(**bad(input_ids=ids))
