# SPDX-License-Identifier: Apache-2.0
"""span_mask's CUDA code: the reference or the CPU bit for bit; streams, graphs, bad input."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from cuda_code import missing_cuda
from span_mask_samples import MASK, PAD, POOL, assert_equal, sample_inputs, table
from test_span_mask_interface import BAD_INPUTS

from spanbert_ext import build_info, reference
from spanbert_ext.masking.masker import SpanMasker
from spanbert_ext.ops import SpanMaskOutput, span_mask

LENGTHS = [1, 2, 7, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 191, 200, 300]
SCHEMES = {
    "geometric": {},
    "words": {"max_words": 1},
    "long spans": {"p": 0.01, "max_words": 64, "position_slots": 3},
    # more proposals than the kernel draws ahead
    "tokens": {"kinds": table().clamp(min=1), "max_words": 1, "ratio": 0.95, "position_slots": 0},
    "all": {"ratio": 1.0, "mask_share": 0.0, "random_share": 1.0},
    "none": {"ratio": 0.0},
    "no replacement": {"mask_share": 0.0, "random_share": 0.0, "random_ids": POOL[:0], "ratio": 0.4},
    "per token": {"replace_per_token": True, "mask_share": 0.4, "random_share": 0.3, "ratio": 0.5},
}


def random_calls(rows: int) -> Iterator[dict]:
    """`rows` rows of every length and scheme; which tensors are given, and their dtypes, change from call to call."""
    generator = torch.Generator().manual_seed(3)
    for number, (length, scheme) in enumerate((n, s) for n in LENGTHS for s in SCHEMES.values()):

        def integers(low: int, high: int, *shape: int) -> torch.Tensor:
            return torch.randint(low, high, shape, generator=generator)  # noqa: B023

        def one_in(n: int) -> bool:
            return integers(0, n, 1).item() == 0  # noqa: B023

        B, L = rows, length
        ids = integers(0 if one_in(2) else 5, 100, B, L)
        call = sample_inputs() | {
            "input_ids": ids.int() if one_in(2) else ids,
            "seed": integers(-(2**62), 2**62, 1)[0],
            "epoch": integers(0, 2**32, B) if one_in(2) else integers(0, 2**32, 1)[0],
            "pad_token_id": PAD if one_in(2) else -1,
            "ratio": [0.15, 0.5, 0.31][number % 3],
            **scheme,
        }
        if "kinds" not in scheme and one_in(3):
            call["kinds"] = integers(0, 3, B, L).to(torch.uint8)
        if one_in(2):
            dtype = [torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64][number % 5]
            call["attention_mask"] = integers(0, 6, B, L).ne(0).to(dtype)
        if one_in(2):
            call["sample_ids"] = integers(-(2**62), 2**62, B)
        if one_in(3):
            start = integers(0, L, B, 5)
            spans = torch.stack([start, (start + integers(1, 7, B, 5)).clamp(max=L)], -1)
            call["candidates"] = spans.masked_fill(integers(0, 4, B, 5, 1) == 0, -1)
            call["fill_after_candidates"] = one_in(2)
            call["candidate_share"] = [1.0, 0.5, 0.2, 0.0][number % 4]
        yield call


def moved(call: dict, device: str) -> dict:
    return {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in call.items()}


def on_cpu(masked: SpanMaskOutput) -> SpanMaskOutput:
    return SpanMaskOutput(*(x.cpu() for x in masked))


def assert_as_on_the_cpu(call: dict) -> None:
    assert_equal(on_cpu(span_mask(**moved(call, "cuda"))), span_mask(**call))


LONG_ROWS = {
    # bit sets and ids in shared memory, bit sets alone, neither: see SpanMaskLayout
    "all shared": (5_500, torch.int64),
    "ids just shared": (11_000, torch.int32),
    "bits shared": (12_001, torch.int64),
    "bits just shared": (119_871, torch.int64),
    "nothing shared": (119_872, torch.int64),
}


def long_row(name: str) -> dict:
    length, dtype = LONG_ROWS[name]
    return sample_inputs(rows=2, length=length, dtype=dtype) | {"ratio": 200 / length, "seed": length}


# --- The code of the kernel, on a GPU or emulated ---


@pytest.fixture
def kernel_device(monkeypatch) -> str:
    """Where span_mask runs the CUDA code, without the checks of SPANBERT_EXT_DEBUG."""
    monkeypatch.setenv("SPANBERT_EXT_DEBUG", "0")
    if build_info()["cuda_emulated"]:
        return "cpu"
    reason = missing_cuda()
    if reason is None:
        return "cuda"
    if os.environ.get("SPANBERT_EXT_REQUIRE_CUDA") == "1":
        pytest.fail(f"SPANBERT_EXT_REQUIRE_CUDA=1, but {reason}", pytrace=False)
    pytest.skip(reason)


def test_every_scheme_and_length_is_the_reference(kernel_device):
    for call in random_calls(rows=2):
        assert_equal(on_cpu(span_mask(**moved(call, kernel_device))), span_mask(**call, impl="reference"))


@pytest.mark.parametrize("name", LONG_ROWS)
def test_long_rows_equal_the_reference(name, kernel_device):
    call = long_row(name)
    assert_equal(on_cpu(span_mask(**moved(call, kernel_device))), span_mask(**call, impl="reference"))


UNCHECKED = sample_inputs(rows=8, length=70) | {"sample_ids": torch.arange(8), "ratio": 0.5}


def test_unchecked_ids_out_of_range_are_special_and_stay(kernel_device):
    ids = UNCHECKED["input_ids"].clone()
    ids[:, 20:50:7] = torch.tensor([-1, 200, 2**40, -(2**63), 2**63 - 1])
    bad = ids.lt(0) | ids.ge(200)
    for kinds in (table(), table()[UNCHECKED["input_ids"]]):
        call = moved(UNCHECKED | {"kinds": kinds, "vocab_size": 200}, kernel_device)
        got = on_cpu(span_mask(**call | {"input_ids": ids.to(kernel_device)}))
        special = UNCHECKED["input_ids"].masked_fill(bad, 1)
        expected = span_mask(**UNCHECKED | {"input_ids": special}, impl="reference")
        expected.masked_ids[bad] = ids[bad]
        assert_equal(got, expected)


def test_unchecked_kinds_count_by_their_low_bits(kernel_device):
    ids, low = UNCHECKED["input_ids"], table()
    high = low + torch.tensor([0, 4, 128, 252], dtype=torch.uint8).repeat(50)
    high[4] = 3  # special, whatever else it says
    hashed = UNCHECKED | {"sample_ids": None}  # padding would not count in the hash, a special does
    expected = span_mask(**hashed, impl="reference")
    for kinds in (high, high[ids]):
        got = span_mask(**moved(hashed | {"kinds": kinds}, kernel_device))
        assert_equal(on_cpu(got), expected)


def test_unchecked_candidates_that_are_none_are_padding(kernel_device):
    far = 2**62
    bad = [[5, 3], [5, 5], [-1, 3], [69, 71], [70, 71], [far, far + 1], [-far, far], [0, far]]
    good = torch.tensor([[10, 14], [30, 31]]).expand(8, 2, 2)
    spans = torch.tensor(bad).expand(8, 8, 2)
    for fill, share in ((True, 1.0), (False, 1.0), (True, 0.5), (False, 0.5)):
        call = UNCHECKED | {"fill_after_candidates": fill, "candidate_share": share}
        got = span_mask(**moved(call | {"candidates": torch.cat([spans, good], 1)}, kernel_device))
        padded = torch.cat([torch.full_like(spans, -1), good], 1)
        assert_equal(on_cpu(got), span_mask(**call, candidates=padded, impl="reference"))


def test_unchecked_pool_and_epoch_pass_through(kernel_device):
    call = UNCHECKED | {"mask_share": 0.0, "random_share": 1.0, "random_ids": torch.tensor([-7, 10**6])}
    got = on_cpu(span_mask(**moved(call | {"epoch": torch.tensor(2**32 + 2)}, kernel_device)))
    scalars = {name: torch.tensor(call[name]) for name in ("seed", "epoch")}
    assert_equal(got, reference.span_mask(**(call | scalars)))  # impl="reference" would refuse the pool
    assert set(got.masked_ids[got.labels >= 0].tolist()) == {-7, 10**6}


# --- On a GPU ---


@pytest.mark.needs_cuda
def test_a_million_rows_are_those_of_the_cpu():
    for call in random_calls(rows=8192):
        assert_as_on_the_cpu(call)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("name", LONG_ROWS)
def test_long_rows_are_those_of_the_cpu(name):
    assert_as_on_the_cpu(long_row(name) | {"ratio": 0.15})


@pytest.mark.needs_cuda
def test_more_rows_than_a_grid_has_in_its_short_dimensions():
    assert_as_on_the_cpu(sample_inputs(rows=70_001, length=9))


@pytest.mark.needs_cuda
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (3, 0)])
def test_empty_batches_and_rows_are_accepted(shape):
    assert_as_on_the_cpu(sample_inputs() | {"input_ids": torch.empty(shape, dtype=torch.int64)})


@pytest.mark.needs_cuda
def test_strided_inputs_are_not_changed():
    call = moved(sample_inputs(rows=5, length=90), "cuda")
    plain = span_mask(**call)
    spread = torch.full((90, 10), 9, device="cuda")
    spread[:, ::2] = call["input_ids"].T
    tensors = {
        "input_ids": spread[:, ::2].T,
        "kinds": call["kinds"].repeat_interleave(3)[::3],
        "random_ids": call["random_ids"].repeat_interleave(2)[::2],
        "epoch": torch.tensor([2], device="cuda").expand(5),
        "attention_mask": torch.ones(1, 1, dtype=torch.bool, device="cuda").expand(5, 90),
    }
    copies = {name: x.clone() for name, x in tensors.items()}
    assert_equal(span_mask(**call | tensors), plain)
    assert all(torch.equal(x, copies[name]) for name, x in tensors.items())


@pytest.mark.needs_cuda
def test_another_stream_waits_for_its_own_inputs():
    call = sample_inputs(rows=64, length=500)
    expected = span_mask(**call)
    on_device = moved(call, "cuda")
    ids = torch.zeros_like(on_device["input_ids"])
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        ids.copy_(on_device["input_ids"])
        got = span_mask(**on_device | {"input_ids": ids})
    stream.synchronize()
    assert_equal(on_cpu(got), expected)


@pytest.mark.needs_cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_device_that_is_not_current():
    call = sample_inputs()
    assert_equal(on_cpu(span_mask(**moved(call, "cuda:1"))), span_mask(**call))


@pytest.mark.needs_cuda
@pytest.mark.parametrize("name", BAD_INPUTS)
def test_debug_checks_say_what_the_cpu_says(name, monkeypatch):
    monkeypatch.setenv("SPANBERT_EXT_DEBUG", "1")
    call, error, message = BAD_INPUTS[name]
    with pytest.raises(error, match=message):
        span_mask(**moved(call, "cuda"))


def vocabulary_masker() -> SpanMasker:
    return SpanMasker(table(), MASK, 200, pad_token_id=PAD)


@pytest.mark.needs_cuda
def test_nothing_waits_for_the_gpu(monkeypatch):
    monkeypatch.setenv("SPANBERT_EXT_DEBUG", "0")
    call = moved(sample_inputs(), "cuda")
    masker, ids = vocabulary_masker(), call["input_ids"]
    long_ids = moved(long_row("nothing shared"), "cuda")["input_ids"]
    masker(ids)  # its tables come to the device
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        span_mask(**call)
        masker(ids, seed=3, epoch=4)
        masker(long_ids)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.needs_cuda
@pytest.mark.parametrize("length", [70, 119_872])
def test_replays_of_a_graph_give_other_masks(length, monkeypatch):
    """Masks depend on a step in device memory that the graph itself advances, as the model's forward does."""
    monkeypatch.setenv("SPANBERT_EXT_DEBUG", "0")
    ids = sample_inputs(rows=4, length=length)["input_ids"]
    expected = [vocabulary_masker()(ids, seed=9, epoch=epoch).labels for epoch in range(3)]
    masker, ids = vocabulary_masker(), ids.cuda()
    step = torch.zeros((), dtype=torch.int64, device="cuda")

    def forward() -> torch.Tensor:
        epoch = step.clone()
        step.add_(1)
        return masker(ids, seed=9, epoch=epoch).labels

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        assert torch.equal(forward().cpu(), expected[0])
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        labels = forward()
    for epoch in (1, 2):
        graph.replay()
        assert torch.equal(labels.cpu(), expected[epoch])
    assert not torch.equal(expected[1], expected[2])


@pytest.mark.needs_cuda
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_opcheck(dtype):
    call = moved(sample_inputs(dtype=dtype), "cuda")
    options = {"mask_token_id": MASK, "pad_token_id": PAD, "ratio": 0.15, "p": 0.2, "max_words": 10}
    options |= {"position_slots": 20, "mask_share": 0.8, "random_share": 0.1, "replace_per_token": False}
    absent = dict.fromkeys(("attention_mask", "sample_ids", "candidates", "vocab_size"))
    scalars = (torch.tensor(1, device="cuda"), torch.tensor(2, device="cuda"))
    torch.library.opcheck(
        torch.ops.spanbert_ext.span_mask.default,
        (call["input_ids"], call["kinds"], call["random_ids"], *scalars),
        options | absent | {"fill_after_candidates": True, "candidate_share": 0.5},
    )
