# SPDX-License-Identifier: Apache-2.0
"""`token_rows`: rows of x that `boundary_mlp` hands out beside y, so that one backward writes x's gradient."""

from __future__ import annotations

import pytest
import torch
from boundary_samples import (
    Sample,
    grad_like,
    make_sample,
    on_every_device,
    random_spans,
    sample_inputs,
    small,
    some_tokens,
)
from cuda_code import on_cuda_code
from torch import Tensor

from spanbert_ext import ops

SAMPLES = sample_inputs()
every_sample = pytest.mark.parametrize("name", SAMPLES)


@on_every_device
@pytest.mark.parametrize("rows", [0, 1, 37])
@every_sample
def test_values_and_gradients_equal_the_reference_in_float64(name: str, rows: int, device: str) -> None:
    sample = SAMPLES[name].on(device)
    tokens = dict(zip(("token_rows", "grad_rows"), some_tokens(sample, rows), strict=True))
    fused, expected = (
        sample.value_and_gradients(impl, grad_like(sample), **tokens) for impl in ("fused", "reference")
    )
    for key, value in expected.items():
        torch.testing.assert_close(
            fused[key], value, rtol=1e-10, atol=1e-10, msg=lambda m, key=key: f"{key}: {m}"
        )


def test_both_implementations_give_the_rows_of_x() -> None:
    sample = small()
    token_rows = torch.tensor([9 + 4, -1, 0, 17, 0])
    expected = torch.stack(
        [sample.x[1, 4], torch.zeros(3).double(), sample.x[0, 0], sample.x[1, 8], sample.x[0, 0]]
    )
    for impl in ("fused", "reference"):
        y, rows = sample.run(impl, token_rows=token_rows)
        assert torch.equal(rows, expected)
        assert torch.equal(y, sample.run(impl))


@on_every_device
def test_a_token_that_bounds_two_spans_and_is_handed_out_twice_gets_every_gradient(device: str) -> None:
    sample = make_sample([[(1, 3), (4, 6)]], 8, 3, 5, 4).on(device)
    token_rows = torch.tensor(
        [3, 7, -1, 3], device=device
    )  # token 3 is right of one span and left of another
    grad_rows = some_tokens(sample, 4)[1]
    boundaries = sample.value_and_gradients("fused", grad_like(sample))["x"]
    assert boundaries[0, 3].any() and not boundaries[0, 7].any()
    both = sample.value_and_gradients("fused", grad_like(sample), token_rows=token_rows, grad_rows=grad_rows)
    boundaries[0, 3] += grad_rows[0] + grad_rows[3]
    boundaries[0, 7] += grad_rows[1]
    torch.testing.assert_close(both["x"], boundaries)


def gradients_of(sample: Sample, loss: str, token_rows: Tensor, frozen: tuple[str, ...] = ()) -> dict:
    leaves = sample.requires_grad()
    for name in frozen:
        getattr(leaves, name).requires_grad_(False)
    y, rows = leaves.run(token_rows=token_rows)
    terms = {"y": y.square().sum(), "rows": rows.pow(3).sum()}
    sum(terms[name] for name in loss.split("+")).backward()
    return {name: tensor.grad for name, tensor in leaves.float_tensors().items()}


@on_every_device
def test_gradients_of_one_output_alone_are_right(device: str) -> None:
    sample = small().on(device)
    token_rows = some_tokens(sample, 6)[0]
    of_y, of_rows, of_both = (gradients_of(sample, loss, token_rows) for loss in ("y", "rows", "y+rows"))
    assert of_rows["x"].any()
    assert all(gradient is None for name, gradient in of_rows.items() if name != "x")
    torch.testing.assert_close(of_both["x"], of_y["x"] + of_rows["x"])
    for name, gradient in of_y.items():
        if name != "x":
            assert torch.equal(of_both[name], gradient), name


@on_every_device
def test_frozen_inputs_get_no_gradient_beside_token_rows(device: str) -> None:
    sample = small().on(device)
    token_rows = some_tokens(sample, 6)[0]
    expected = gradients_of(sample, "y+rows", token_rows)
    without_x = gradients_of(sample, "y+rows", token_rows, ("x",))
    parameters = tuple(name for name in expected if name != "x")
    without_parameters = gradients_of(sample, "y+rows", token_rows, parameters)
    assert without_x.pop("x") is None
    assert all(torch.equal(gradient, expected[name]) for name, gradient in without_x.items())
    assert torch.equal(without_parameters.pop("x"), expected["x"])
    assert all(gradient is None for gradient in without_parameters.values())


def test_double_backward_of_the_rows_raises() -> None:
    sample = small().requires_grad()
    _, rows = sample.run(token_rows=torch.tensor([3]))
    with pytest.raises(RuntimeError, match="boundary_mlp has no double backward"):
        torch.autograd.grad(rows.square().sum(), sample.x, create_graph=True)


def test_gradcheck() -> None:
    sample = small()
    token_rows = torch.tensor([3, -1, 3, 12])

    def run(x: Tensor, weight1: Tensor) -> tuple[Tensor, Tensor]:
        changed = Sample(**{**vars(sample), "x": x, "weight1": weight1})
        return changed.run(eps=1e-5, token_rows=token_rows)

    leaves = sample.requires_grad()
    assert torch.autograd.gradcheck(run, (leaves.x, leaves.weight1))


@on_every_device
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_a_token_s_gradient_is_rounded_once(autocast: torch.dtype | None, device: str) -> None:
    squares = {"fused": 0.0, "reference": 0.0}
    for seed in range(8):
        sample = make_sample(random_spans(4, 60, seed), 60, 32, 24, 16, width=60, seed=seed).on(device)
        sample = sample.to(torch.bfloat16)
        if autocast:
            sample = Sample(sample.x, *sample.to(torch.float32).tensors()[1:])
        token_rows, grad_rows = some_tokens(sample, 300, seed)
        options = {"token_rows": token_rows, "grad_rows": grad_rows.bfloat16()}
        grad_y = grad_like(sample, seed).bfloat16()
        exact = sample.to(torch.float64).value_and_gradients("reference", grad_y, **options)
        for impl in squares:
            values = sample.value_and_gradients(impl, grad_y, autocast=autocast, **options)
            assert torch.equal(values["rows"].double(), exact["rows"])
            squares[impl] += (values["x"].double() - exact["x"]).square().sum().item()
    assert (squares["fused"] / squares["reference"]) ** 0.5 <= 1.1


@on_every_device
def test_repeated_tokens_are_summed_with_equal_bits_every_time(device: str) -> None:
    sample = SAMPLES["odd"].on(device)
    token_rows = torch.arange(500, device=device) * 7 % 11
    options = {"token_rows": token_rows, "grad_rows": some_tokens(sample, 500)[1]}
    exact = sample.value_and_gradients("reference", grad_like(sample), **options)["x"]
    first, *again = (
        sample.to(torch.float32).value_and_gradients("fused", grad_like(sample), **options)["x"]
        for _ in range(4)
    )
    torch.testing.assert_close(first.double(), exact, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(first, other) for other in again)


@on_every_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("hidden", [64, 63])
def test_strided_x_of_every_dtype(hidden: int, dtype: torch.dtype, device: str) -> None:
    sample = make_sample([[(1, 3), (4, 6)], [(2, 5)]], 9, hidden, 8, 8).on(device).to(dtype)
    token_rows = torch.tensor([3, 17, -1, 9], device=device)
    wide = torch.randn(9, 2, 3 * hidden + 5, device=device).to(dtype)
    for x in (wide.transpose(0, 1)[..., 5 : 5 + hidden], wide.transpose(0, 1)[..., : 2 * hidden : 2]):
        sample.x = x
        _, rows = sample.run(token_rows=token_rows)
        expected = x.flatten(0, 1)[token_rows]
        expected[2] = 0
        assert torch.equal(rows, expected)


@on_every_device
def test_int32_and_no_rows_at_all(device: str) -> None:
    sample = small().on(device)
    y, rows = sample.run(token_rows=torch.tensor([3, -1], device=device, dtype=torch.int32))
    assert torch.equal(y, sample.run()) and torch.equal(rows[0], sample.x[0, 3]) and not rows[1].any()
    assert sample.run(token_rows=torch.tensor([], device=device, dtype=torch.int64))[1].shape == (0, 3)


@on_every_device
def test_nan_stays_in_the_rows_that_read_it(device: str) -> None:
    sample = small().on(device)
    sample.x[1, 5] = float("nan")
    token_rows = torch.tensor([13, 14, -1], device=device)
    values = sample.value_and_gradients(
        "fused", grad_like(sample), token_rows=token_rows, grad_rows=torch.ones(3, 3, device=device)
    )
    assert values["rows"].isnan().any(dim=1).tolist() == [False, True, False]
    assert not values["y"].isnan().any() and not values["x"].isnan().any()


@on_cuda_code
def test_rows_of_tokens_that_do_not_exist_are_nan_and_give_no_gradient(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPANBERT_EXT_DEBUG", "0")
    sample = small().on(device)
    token_rows = torch.tensor([3, 18, -2, 2**62, -(2**62), -1], device=device)
    grad_rows = torch.ones(6, 3, device=device)
    values = sample.value_and_gradients(
        "fused", grad_like(sample), token_rows=token_rows, grad_rows=grad_rows
    )
    assert values["rows"].isnan().all(dim=1).tolist() == [False, True, True, True, True, False]
    expected = sample.value_and_gradients(
        "reference", grad_like(sample), token_rows=token_rows[:1], grad_rows=grad_rows[:1]
    )
    for key in set(expected) - {"rows"}:
        torch.testing.assert_close(values[key], expected[key], rtol=1e-10, atol=1e-10)


BAD = {
    "past_the_tokens": (
        torch.tensor([0, 18]),
        IndexError,
        r"token_rows\[1\] is 18; expected -1 or a token in \[0, B\*L\) = \[0, 18\)",
    ),
    "below": (torch.tensor([-2]), IndexError, r"token_rows\[0\] is -2; expected -1"),
    "dims": (torch.tensor([[0]]), ValueError, r"token_rows has shape \[1, 1\]; expected \[R\]"),
    "floats": (
        torch.tensor([0.0]),
        TypeError,
        r"token_rows has dtype (float|Float); expected int64 or int32",
    ),
}


@on_every_device
@pytest.mark.parametrize("case", BAD)
def test_bad_token_rows_are_named(case: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANBERT_EXT_DEBUG", "1")  # the CPU always does
    token_rows, error, message = BAD[case]
    with pytest.raises(error, match=message):
        small().on(device).run(token_rows=token_rows.to(device))


def test_token_rows_on_another_device_are_named() -> None:
    with pytest.raises(ValueError, match="token_rows is on meta, expected cpu as x"):
        small().run(token_rows=torch.tensor([0], device="meta"))


def test_compiles_as_one_graph() -> None:
    sample = SAMPLES["odd"]
    token_rows, grad_rows = some_tokens(sample, 11)
    expected = sample.value_and_gradients(
        "fused", grad_like(sample), token_rows=token_rows, grad_rows=grad_rows
    )
    leaves = sample.requires_grad()
    compiled = torch.compile(ops.boundary_mlp, fullgraph=True, backend="aot_eager")
    y, rows = compiled(*leaves.tensors(), token_rows=token_rows)
    torch.autograd.backward((y, rows), (grad_like(sample), grad_rows))
    assert torch.equal(y, expected["y"]) and torch.equal(rows, expected["rows"])
    for key, tensor in leaves.float_tensors().items():
        assert torch.equal(tensor.grad, expected[key]), key
