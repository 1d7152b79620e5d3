# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch
from boundary_samples import (
    PARAMETERS,
    Sample,
    grad_like,
    make_sample,
    on_every_device,
    random_spans,
    sample_inputs,
    small,
    some_tokens,
)
from torch import Tensor

from spanbert_ext import build_info

SAMPLES = sample_inputs()
LIVE = ("odd", "wide", "chunks", "strided")
every_sample = pytest.mark.parametrize("name", SAMPLES)
OP = torch.ops.spanbert_ext


def by_hand(s: Sample, row: int, k: int) -> Tensor:
    """One row of the head from the paper's formula, apart from both implementations."""
    start = s.left_boundary[row, k] + 1
    h = torch.cat(
        [
            s.x[row, start - 1],
            s.x[row, s.right_boundary[row, k]],
            s.positions[s.masked_positions[row, k] - start],
        ]
    )
    layers = (
        (s.weight1, s.bias1, s.norm1_weight, s.norm1_bias),
        (s.weight2, s.bias2, s.norm2_weight, s.norm2_bias),
    )
    for weight, bias, gain, shift in layers:
        z = weight @ h + bias
        g = z * 0.5 * torch.erfc(-z / 2**0.5)
        h = (g - g.mean()) / (g.var(correction=0) + 1e-12).sqrt() * gain + shift
    return h


@on_every_device
@every_sample
def test_values_and_gradients_equal_the_reference_in_float64(name: str, device: str) -> None:
    sample = SAMPLES[name].on(device)
    grad_y = grad_like(sample)
    fused, expected = (sample.value_and_gradients(impl, grad_y) for impl in ("fused", "reference"))
    for key, value in expected.items():
        torch.testing.assert_close(
            fused[key], value, rtol=1e-10, atol=1e-10, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.parametrize("name", ["odd", "narrow", "chunks"])
def test_both_implementations_equal_the_formula_row_by_row(name: str) -> None:
    sample = SAMPLES[name]
    y = {impl: sample.run(impl) for impl in ("fused", "reference")}
    for row, k in (sample.left_boundary >= 0).nonzero().tolist()[::7]:
        for impl, value in y.items():
            torch.testing.assert_close(
                value[row, k], by_hand(sample, row, k), msg=lambda m, impl=impl: f"{impl}: {m}"
            )


@on_every_device
@every_sample
def test_float32_is_as_near_as_its_rounding(name: str, device: str) -> None:
    sample = SAMPLES[name].on(device).to(torch.float32)
    grad_y = grad_like(sample)
    exact = sample.to(torch.float64).value_and_gradients("reference", grad_y)
    for key, value in sample.value_and_gradients("fused", grad_y).items():
        assert value.dtype == torch.float32
        # sums of up to 500 rows of order 1: 1e-4 is 100 times their rounding, 1/1000 of one missing row
        torch.testing.assert_close(value.double(), exact[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["odd", "wide", "chunks"])
def test_same_result_for_any_number_of_threads(name: str) -> None:
    """Sums do not depend on the thread count; GEMMs are MKL's, so values are close, not equal."""
    sample = SAMPLES[name]
    grad_y, threads, results = grad_like(sample), torch.get_num_threads(), []
    try:
        for count in (1, 2, 8):
            torch.set_num_threads(count)
            results.append(sample.value_and_gradients("fused", grad_y))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        for key, value in results[0].items():
            torch.testing.assert_close(result[key], value, rtol=1e-12, atol=1e-12)


def test_gradcheck() -> None:
    sample = small().requires_grad()
    names = list(sample.float_tensors())

    def run(*tensors: Tensor) -> Tensor:
        values = dict(zip(names, tensors, strict=True))
        return Sample(**{**vars(sample), **values}).run(eps=1e-5)

    assert torch.autograd.gradcheck(run, tuple(sample.float_tensors().values()))


@on_every_device
@pytest.mark.parametrize("name", ["odd", "strided", "int32", "no_target", "no_batch"])
def test_opcheck(name: str, device: str) -> None:
    # Tracing takes most of the time. test_boundary_mlp_modes.py traces the samples that are left out of it here.
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if name in ("strided", "no_batch"):
        checks.append("test_aot_dispatch_dynamic")
    sample = SAMPLES[name].on(device).to(torch.float32)
    token_rows, grad_rows = some_tokens(sample, 7)
    grad_y, grad_rows = grad_like(sample).float(), grad_rows.float()
    for autocast, tokens in ((torch.float32, None), (torch.bfloat16, token_rows)):
        leaves = sample.requires_grad()
        torch.library.opcheck(
            OP.boundary_mlp.default, leaves.forward_arguments(autocast, tokens), test_utils=checks
        )
    for needs, grads in {
        (True, True): (grad_y, None),
        (True, False): (None, grad_rows),
        (False, True): (grad_y, grad_rows),
    }.items():
        arguments = sample.backward_arguments(torch.float32, grads[0], needs, token_rows, grads[1])
        torch.library.opcheck(OP.boundary_mlp_backward.default, arguments, test_utils=checks)


@on_every_device
@every_sample
def test_tensors_of_the_caller_do_not_change(name: str, device: str) -> None:
    sample = SAMPLES[name].on(device).requires_grad()
    before = [t.detach().clone() for t in sample.tensors()]
    grad_y = grad_like(sample)
    kept = grad_y.clone()
    sample.run().backward(grad_y)
    assert torch.equal(grad_y, kept)
    for tensor, old in zip(sample.tensors(), before, strict=True):
        assert torch.equal(tensor, old)


def test_upstream_gradients_scale_and_add_up() -> None:
    sample = small()
    grad_y = grad_like(sample)
    once = sample.value_and_gradients("fused", grad_y)
    scaled = sample.value_and_gradients("fused", grad_y * 0.5)
    for key in ("x", *PARAMETERS):
        torch.testing.assert_close(scaled[key], once[key] * 0.5)

    leaves = sample.requires_grad()
    y = leaves.run()
    ((y * grad_y).sum() + 2 * (y * grad_y).sum() + y[0].sum() * torch.tensor(0.0)).backward()
    torch.testing.assert_close(leaves.x.grad, once["x"] * 3)

    # the gradient of a sum is an expanded scalar, without strides
    ones = sample.value_and_gradients("fused", torch.ones_like(grad_y))
    expanded = sample.value_and_gradients("fused", torch.ones((), dtype=torch.float64).expand_as(grad_y))
    torch.testing.assert_close(expanded, ones)


def test_backward_twice_with_retain_graph_adds_up() -> None:
    sample = small().requires_grad()
    loss = sample.run().square().sum()
    loss.backward(retain_graph=True)
    first = {name: t.grad.clone() for name, t in sample.float_tensors().items()}
    loss.backward()
    for name, tensor in sample.float_tensors().items():
        torch.testing.assert_close(tensor.grad, 2 * first[name])


def test_a_gradient_penalty_raises_and_names_the_way_out() -> None:
    sample = small().requires_grad()
    with pytest.raises(RuntimeError, match=r"boundary_mlp has no double backward.*impl='reference'"):
        (grad,) = torch.autograd.grad(sample.run().square().sum(), sample.x, create_graph=True)
        grad.square().sum().backward()
    (grad,) = torch.autograd.grad(sample.run("reference").square().sum(), sample.x, create_graph=True)
    grad.square().sum().backward()  # the remedy that the message names


@pytest.mark.parametrize("frozen", ["x", "parameters", *PARAMETERS])
def test_frozen_inputs_get_no_gradient_and_the_others_keep_theirs(frozen: str) -> None:
    sample = small()
    expected = sample.value_and_gradients("fused", grad_like(sample))
    leaves = sample.requires_grad()
    for name in PARAMETERS if frozen == "parameters" else (frozen,):
        getattr(leaves, name).requires_grad_(False)
    leaves.run().backward(grad_like(sample))
    for name, tensor in leaves.float_tensors().items():
        if tensor.requires_grad:
            assert torch.equal(tensor.grad, expected[name]), name
        else:
            assert tensor.grad is None


def test_needless_gradients_are_empty() -> None:
    sample = small()

    def backward(*needs: bool) -> tuple[Tensor, ...]:
        arguments = sample.backward_arguments(torch.float64, grad_like(sample), needs)
        return OP.boundary_mlp_backward(*arguments)

    grad_x, *of_parameters = backward(False, True)
    assert grad_x.shape == (0,) and all(grad.shape != (0,) for grad in of_parameters)
    grad_x, *of_parameters = backward(True, False)
    assert grad_x.shape == sample.x.shape and all(grad.shape == (0,) for grad in of_parameters)


def test_nothing_requires_a_gradient_without_grad_mode_or_leaves() -> None:
    sample = small().requires_grad()
    with torch.no_grad():
        assert not sample.run().requires_grad
    assert not small().run().requires_grad


@on_every_device
@pytest.mark.parametrize("name", ["no_target", "no_masked_token", "no_batch", "no_length"])
def test_nothing_to_predict_gives_zeros_and_every_parameter_a_gradient(name: str, device: str) -> None:
    sample = SAMPLES[name].on(device).requires_grad()
    y = sample.run()
    assert not y.any()
    y.sum().backward()
    for key, tensor in sample.float_tensors().items():
        assert tensor.grad is not None and not tensor.grad.any(), key


@on_every_device
@pytest.mark.parametrize("name", LIVE)
def test_dead_rows_are_zero_in_every_output(name: str, device: str) -> None:
    sample = SAMPLES[name].on(device)
    torch.full((1 << 20,), float("nan"), device=device)  # a freed block that the allocator may hand out again
    y, _, z1, z2, statistics, kept, count, *_ = OP.boundary_mlp(*sample.tensors(), 1e-12, torch.float64)
    live = sample.left_boundary >= 0
    assert not y[~live].any() and y[live].any(dim=-1).all()
    for saved in (z1, z2, statistics):
        assert not saved[int(live.sum()) :].any()
    rows = live.flatten().nonzero().flatten().tolist()
    assert kept.tolist() == rows + [-1] * (live.numel() - len(rows)) and count.tolist() == [len(rows)]


@pytest.mark.skipif(build_info()["cuda_emulated"], reason="the CUDA code gathers 8192 rows at a time")
def test_the_concatenation_is_never_allocated() -> None:
    sample = make_sample(random_spans(32, 160, 2), 160, 256, 8, 8, width=160).to(torch.float32)
    grad_y = grad_like(sample)
    concatenation = int((sample.left_boundary >= 0).sum()) * sample.weight1.shape[1] * 4  # bytes
    allocated = {}
    for impl in ("fused", "reference"):
        with torch.profiler.profile(profile_memory=True) as profile:
            sample.value_and_gradients(impl, grad_y)
        allocated[impl] = max(event.self_cpu_memory_usage for event in profile.events())
    assert allocated["fused"] < concatenation <= allocated["reference"]


LOW_PRECISION = [(dtype, autocast) for dtype in (torch.bfloat16, torch.float16) for autocast in (False, True)]


@on_every_device
@pytest.mark.parametrize(("dtype", "autocast"), LOW_PRECISION)
def test_rounding_error_is_at_most_that_of_eager(dtype: torch.dtype, autocast: bool, device: str) -> None:
    squares: dict[tuple[str, str], float] = {}
    largest: dict[tuple[str, str], float] = {}
    # CUDA keeps more of the intermediate values in `dtype`: the largest error of 8 seeds is an accident there
    for seed in range(8 if device == "cpu" and not build_info()["cuda_emulated"] else 32):
        spans = random_spans(4, 160, seed)  # about 400 targets: two chunks
        sample = make_sample(
            spans, 160, 64, 96, 48, slots=6, position_dim=24, width=160, seed=seed, peaks=8 * (seed % 2)
        )
        sample = sample.on(device).to(torch.float32 if autocast else dtype)
        grad_y = grad_like(sample, seed).to(dtype)
        exact = sample.to(torch.float64).value_and_gradients("reference", grad_y)
        for impl in ("fused", "reference"):
            values = sample.value_and_gradients(impl, grad_y, autocast=dtype if autocast else None)
            for key, value in values.items():
                error = value.double() - exact[key]
                squares[impl, key] = squares.get((impl, key), 0.0) + error.square().sum().item()
                largest[impl, key] = max(largest.get((impl, key), 0.0), error.abs().max().item())
    for key in exact:
        assert (squares["fused", key] / squares["reference", key]) ** 0.5 <= 1.1, f"RMS of {key}"
        assert largest["fused", key] / largest["reference", key] <= 1.1, f"maximum of {key}"


@on_every_device
def test_parameter_gradients_add_up_over_chunks_in_float32(device: str) -> None:
    # 256 targets are one chunk: eight copies of them give eight equal chunks and eight times the gradient, to
    # the rounding of float32. A sum rounded to bfloat16 anywhere on the way is off by 1e-3.
    spans = [[(start, start + 4) for start in range(1, 81, 5)]] * 4
    one = make_sample(spans, 82, 16, 24, 40).on(device).to(torch.float32)
    assert int((one.left_boundary >= 0).sum()) == 256
    eight = Sample(*one.tensors())
    for name in ("x", "masked_positions", "left_boundary", "right_boundary"):
        setattr(eight, name, torch.cat([getattr(one, name)] * 8))
    grad_y = grad_like(one)
    of_one = one.value_and_gradients("fused", grad_y, torch.bfloat16)
    of_eight = eight.value_and_gradients("fused", torch.cat([grad_y] * 8), torch.bfloat16)
    for name in PARAMETERS:
        assert (of_eight[name] - 8 * of_one[name]).norm() < 1e-5 * of_eight[name].norm(), name


@on_every_device
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_dtype_of_every_tensor(dtype: torch.dtype, device: str) -> None:
    sample = SAMPLES["odd"].on(device).to(torch.float32)
    for x_dtype in (torch.float32, dtype):
        sample.x = sample.x.to(x_dtype)
        values = sample.value_and_gradients("fused", grad_like(sample), autocast=dtype)
        assert values["y"].dtype == values["x"].dtype == x_dtype
        assert all(values[name].dtype == torch.float32 for name in PARAMETERS)
        plain = sample.to(torch.float32).value_and_gradients("fused", grad_like(sample))
        assert not torch.equal(values["y"].float(), plain["y"])  # the second layer did run in `dtype`
        for key, value in values.items():
            assert (value.float() - plain[key]).norm() < 0.05 * plain[key].norm(), key
    assert (
        sample.to(torch.float64).value_and_gradients("fused", grad_like(sample), dtype)["y"].dtype
        == torch.float64
    )


def test_deterministic_mode_and_repeated_runs_agree_bit_for_bit() -> None:
    sample = SAMPLES["chunks"].to(torch.float32)
    first = sample.value_and_gradients("fused", grad_like(sample))
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(3):
            again = sample.value_and_gradients("fused", grad_like(sample))
            assert all(torch.equal(first[key], again[key]) for key in first)
    finally:
        torch.use_deterministic_algorithms(False)


@on_every_device
def test_a_token_that_bounds_two_spans_gets_the_sum_of_both_gradients(device: str) -> None:
    both = make_sample([[(1, 3), (4, 6)]], 8, 3, 5, 4).on(device)
    grad_y = grad_like(both)
    together = both.value_and_gradients("fused", grad_y)["x"]
    alone = []
    for rows in (slice(0, 2), slice(2, 4)):  # the two tokens of each span
        part = Sample(*both.tensors())
        for name in ("masked_positions", "left_boundary", "right_boundary"):
            setattr(part, name, getattr(both, name)[:, rows])
        alone.append(part.value_and_gradients("fused", grad_y[:, rows])["x"])
    assert all(gradient[0, 3].any() for gradient in alone)  # token 3: right of the first, left of the second
    torch.testing.assert_close(together, alone[0] + alone[1])
    assert together.any(dim=-1).nonzero().tolist() == [[0, 0], [0, 3], [0, 6]]


def test_spans_at_the_ends_and_past_the_slots_have_no_target() -> None:
    sample = make_sample([[(0, 2), (3, 9), (10, 12)]], 12, 3, 5, 4, slots=4)
    live = sample.run().any(dim=-1)
    assert live.tolist() == [[False] * 2 + [True] * 4 + [False] * 4]


@on_every_device
def test_nan_stays_in_the_rows_that_read_it(device: str) -> None:
    sample = small().on(device)
    sample.x[0, 0] = float("nan")  # left of row 0's first span
    sample.x[1, 5] = float("nan")  # that no entry reads
    for impl in ("fused", "reference"):
        values = sample.value_and_gradients(impl, grad_like(sample))
        assert values["y"].isnan().any(dim=-1).tolist() == [[True] * 2 + [False] * 3, [False] * 5]
        assert not values["x"][1].isnan().any()


@on_every_device
@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_nan_of_a_slot_that_no_entry_reads_reaches_nothing(device: str, impl: str) -> None:
    sample = small().on(device)
    sample.positions = torch.cat([sample.positions, torch.full_like(sample.positions[:1], float("nan"))])
    for value in sample.value_and_gradients(impl, grad_like(sample)).values():
        assert value.isfinite().all()
