# SPDX-License-Identifier: Apache-2.0
"""What only the CUDA code of `boundary_mlp` does; in a build that emulates it, most of this runs on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from boundary_samples import Sample, grad_like, make_sample, random_spans, sample_inputs, small, some_tokens
from cuda_code import on_cuda_code
from torch import Tensor

from spanbert_ext import ops

INDICES = ("masked_positions", "left_boundary", "right_boundary")
FAR = 2**62


@pytest.fixture(autouse=True)
def _no_checks_of_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANBERT_EXT_DEBUG", "0")


def with_entries(*entries: tuple[str, int, int, int]) -> Sample:
    sample = small()
    for name, row, k, value in entries:
        getattr(sample, name)[row, k] = value
    return sample


def without_targets(sample: Sample, rows: Tensor) -> Sample:
    """A copy in which `rows`, bool [B, K], have no target."""
    changed = Sample(*sample.tensors())
    for name in INDICES:
        setattr(changed, name, getattr(sample, name).masked_fill(rows, -1))
    return changed


def check_equals_with_nan_rows(sample: Sample, nan_rows: Tensor, max_rows: int | None = None) -> None:
    """`nan_rows` are NaN and give no gradient, all the rest is as without them."""
    grad_y = grad_like(sample)
    values = sample.value_and_gradients("fused", grad_y, max_rows=max_rows)
    expected = without_targets(sample, nan_rows).value_and_gradients("reference", grad_y)
    assert values["y"][nan_rows].isnan().all()
    values["y"][nan_rows] = 0
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-10)


INVALID: dict[str, tuple[Callable[[], Sample], list[tuple[int, int]]]] = {
    "left_negative": (lambda: with_entries(("left_boundary", 0, 1, -2)), [(0, 1)]),
    "left_far_below": (lambda: with_entries(("left_boundary", 0, 1, -FAR)), [(0, 1)]),
    "left_far": (lambda: with_entries(("left_boundary", 0, 1, FAR)), [(0, 1)]),
    "right_past_the_row": (lambda: with_entries(("right_boundary", 1, 0, 9)), [(1, 0)]),
    "right_far": (lambda: with_entries(("right_boundary", 1, 0, FAR)), [(1, 0)]),
    "no_right": (lambda: with_entries(("right_boundary", 0, 0, -1)), [(0, 0)]),
    "no_left": (lambda: with_entries(("left_boundary", 0, 0, -1)), [(0, 0)]),
    "outside_its_span": (lambda: with_entries(("masked_positions", 0, 0, 7)), [(0, 0)]),
    "position_far": (lambda: with_entries(("masked_positions", 0, 0, FAR)), [(0, 0)]),
    "position_far_below": (lambda: with_entries(("masked_positions", 0, 0, -FAR)), [(0, 0)]),
    "several": (
        lambda: with_entries(("left_boundary", 0, 0, 8), ("right_boundary", 0, 3, 3)),
        [(0, 0), (0, 3)],
    ),
    "padding_with_a_position": (lambda: with_entries(("masked_positions", 1, 4, FAR)), []),
}


@on_cuda_code
@pytest.mark.parametrize("case", INVALID)
def test_rows_with_invalid_indices_are_nan_and_give_no_gradient(case: str, device: str) -> None:
    make, entries = INVALID[case]
    sample = make().on(device)
    nan_rows = torch.zeros_like(sample.left_boundary, dtype=torch.bool)
    for row, k in entries:
        nan_rows[row, k] = True
    if not entries:  # padding reads nothing, whatever its position
        sample.masked_positions[sample.left_boundary < 0] = FAR
        expected = small().on(device).value_and_gradients("reference", grad_like(sample))
        torch.testing.assert_close(sample.value_and_gradients("fused", grad_like(sample)), expected)
        return
    check_equals_with_nan_rows(sample, nan_rows)


@on_cuda_code
def test_tokens_past_the_slots_are_nan(device: str) -> None:
    sample = small().on(device)
    sample.positions = sample.positions[:1]
    live = sample.left_boundary >= 0
    check_equals_with_nan_rows(sample, live & (sample.masked_positions - sample.left_boundary > 1))


@on_cuda_code
@pytest.mark.parametrize("missing", [1, 3, None])
def test_more_rows_than_max_rows_are_nan(missing: int | None, device: str) -> None:
    sample = make_sample(random_spans(2, 40, 0), 40, 7, 9, 5).on(device)
    live = sample.left_boundary >= 0
    max_rows = int(live.sum()) - missing if missing else 0
    rank = live.flatten().cumsum(0).view_as(live)  # of a live row, from 1
    check_equals_with_nan_rows(sample, live & (rank > max_rows), max_rows)


@on_cuda_code
def test_a_bound_changes_no_value(device: str) -> None:
    sample = sample_inputs()["odd"].on(device)
    grad_y, live = grad_like(sample), int((sample.left_boundary >= 0).sum())
    expected = sample.value_and_gradients("fused", grad_y)
    for max_rows in (live, live + 1, sample.left_boundary.numel(), 10**6):
        values = sample.value_and_gradients("fused", grad_y, max_rows=max_rows)
        torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-10)


@on_cuda_code
@pytest.mark.parametrize("hidden", [33, 161])
def test_more_rows_than_one_chunk(hidden: int, device: str) -> None:
    # 8515 rows: two chunks of the first Linear's input; at 161 columns also two chunks of gradients
    sample = make_sample(random_spans(65, 131, 1), 131, hidden, 9, 5, width=131).on(device)
    token_rows, grad_rows = some_tokens(sample, 3000)
    values, expected = (
        sample.value_and_gradients(impl, grad_like(sample), token_rows=token_rows, grad_rows=grad_rows)
        for impl in ("fused", "reference")
    )
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-10)


@on_cuda_code
def test_columns_that_do_not_fit_in_shared_memory(device: str) -> None:
    sample = make_sample([[(1, 3)]], 5, 2, 12_400, 3).on(device)
    values, expected = (
        sample.value_and_gradients(impl, grad_like(sample)) for impl in ("fused", "reference")
    )
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-10)


def colliding(device: str) -> Sample:
    """Boundaries in no order, a few tokens shared by all rows, as masks never have them."""
    generator = torch.Generator().manual_seed(0)
    sample = make_sample([[(1, 5)] * 10] * 3, 12, 24, 16, 8)
    for name, low, high in (("left_boundary", 0, 3), ("masked_positions", 3, 5), ("right_boundary", 5, 8)):
        shape = sample.left_boundary.shape
        setattr(sample, name, torch.randint(low, high, shape, generator=generator))
    sample.left_boundary = torch.maximum(sample.left_boundary, sample.masked_positions - 4)
    return sample.on(device)


@on_cuda_code
@pytest.mark.parametrize("deterministic", [True, False])
def test_colliding_boundaries_are_summed_with_equal_bits_every_time(
    deterministic: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch asks for it in deterministic mode
    sample = colliding(device)
    grad_y = grad_like(sample)
    expected = sample.value_and_gradients("reference", grad_y)
    torch.testing.assert_close(sample.value_and_gradients("fused", grad_y), expected, rtol=1e-10, atol=1e-10)
    torch.use_deterministic_algorithms(deterministic)
    try:
        for dtype in (torch.float32, torch.bfloat16):
            rounded = sample.to(dtype)
            first, *again = (rounded.value_and_gradients("fused", grad_y) for _ in range(4))
            for other in again:
                assert all(torch.equal(first[key], other[key]) for key in first)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.needs_cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_synchronisation(dtype: torch.dtype) -> None:
    sample = sample_inputs()["odd"].on("cuda").to(dtype)
    grad_y = grad_like(sample).to(dtype)
    token_rows, grad_rows = some_tokens(sample, 20)
    grad_rows = grad_rows.to(dtype)
    sample.value_and_gradients("fused", grad_y)  # cuBLAS sets itself up
    torch.cuda.set_sync_debug_mode("error")
    try:
        for max_rows in (None, 8):
            sample.value_and_gradients("fused", grad_y, max_rows=max_rows)
        sample.value_and_gradients("fused", grad_y, torch.float16)
        sample.value_and_gradients("fused", grad_y, token_rows=token_rows, grad_rows=grad_rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.needs_cuda
def test_a_captured_graph_follows_its_inputs() -> None:
    shape = {"length": 40, "hidden": 64, "inner": 48, "outer": 24, "width": 40}
    samples = [
        make_sample(random_spans(3, 40, seed), seed=seed, **shape).on("cuda").to(torch.float32)
        for seed in (0, 1, 2)
    ]
    grad_y = grad_like(samples[0]).float()
    static = Sample(*(t.clone() for t in samples[0].tensors())).requires_grad()
    leaves = list(static.float_tensors().values())

    def step() -> tuple[Tensor, ...]:
        y = static.run()
        return (y.detach(), *torch.autograd.grad(y, leaves, grad_y))

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    lives = set()
    for sample in samples:
        with torch.no_grad():
            for to, new in zip(static.tensors(), sample.tensors(), strict=True):
                to.copy_(new)
        graph.replay()
        expected = sample.value_and_gradients("fused", grad_y)
        for (key, value), result in zip(expected.items(), results, strict=True):
            torch.testing.assert_close(result, value, msg=lambda m, key=key: f"{key}: {m}")
        lives.add(int((sample.left_boundary >= 0).sum()))
    assert len(lives) > 1  # the graph did not keep one number of rows


@pytest.mark.needs_cuda
def test_another_stream() -> None:
    sample = sample_inputs()["odd"].on("cuda").to(torch.float32)
    expected = sample.value_and_gradients("fused", grad_like(sample))
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        values = sample.value_and_gradients("fused", grad_like(sample))
    torch.cuda.synchronize()
    torch.testing.assert_close(values, expected)


@pytest.mark.needs_cuda
def test_another_device_than_the_current_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(f"torch.cuda.device_count() is {torch.cuda.device_count()}, expected 2")
    sample = sample_inputs()["odd"].to(torch.float32)
    expected = sample.value_and_gradients("reference", grad_like(sample))
    values = sample.on("cuda:1").value_and_gradients("fused", grad_like(sample))
    for key, value in values.items():
        assert value.device == torch.device("cuda:1")
        torch.testing.assert_close(value.cpu(), expected[key], rtol=1e-4, atol=1e-4)


@pytest.mark.needs_cuda
def test_compiles_as_one_graph_on_cuda() -> None:
    sample = sample_inputs()["odd"].on("cuda").to(torch.float32).requires_grad()
    expected = sample.value_and_gradients("fused", grad_like(sample))
    compiled = torch.compile(ops.boundary_mlp, fullgraph=True, backend="aot_eager")
    y = compiled(*sample.tensors())
    gradients = torch.autograd.grad(y, list(sample.float_tensors().values()), grad_like(sample).to(y))
    for (key, value), result in zip(expected.items(), (y, *gradients), strict=True):
        torch.testing.assert_close(result, value, msg=lambda m, key=key: f"{key}: {m}")
