# SPDX-License-Identifier: Apache-2.0
"""vocab_ce against plain PyTorch in float64, at odd sizes, in every dtype, and at the edges of its contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from vocab_ce_samples import Sample, gradients, sample, sample_inputs

from spanbert_ext import ops


@pytest.fixture(params=list(sample_inputs()))
def case(request: pytest.FixtureRequest) -> Sample:
    return sample_inputs()[request.param].to(torch.float64)


def test_float64_equals_reference(case: Sample) -> None:
    fused, plain = case.run(), case.run("reference")
    torch.testing.assert_close(fused.loss, plain.loss, rtol=0, atol=1e-10)
    torch.testing.assert_close(fused.nll, plain.nll, rtol=0, atol=1e-10)
    assert torch.equal(fused.prediction, plain.prediction)
    for got, expected in zip(gradients(case, "fused"), gradients(case, "reference"), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_worked_by_hand() -> None:
    # logits [0, log 3]: p = [1/4, 3/4]; loss = 2 * -log(1/4); dlogits = 2 * [1/4 - 1, 3/4]
    h = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[1.0], [3.0]], dtype=torch.float64).log().requires_grad_()
    row_weight = torch.tensor([2.0], dtype=torch.float64)
    output = ops.vocab_ce(h, weight, None, torch.tensor([0]), row_weight)
    output.loss.backward()
    log3, log4 = 1.0986122886681098, 1.3862943611198906
    assert output.loss.item() == pytest.approx(2 * log4, abs=1e-12)
    assert output.nll.tolist() == pytest.approx([log4], abs=1e-12)
    assert output.prediction.tolist() == [1]
    assert weight.grad.flatten().tolist() == pytest.approx([-1.5, 1.5], abs=1e-12)
    assert h.grad.item() == pytest.approx(1.5 * log3, abs=1e-12)


def test_gradcheck() -> None:
    case = sample(9, 5, 13, label_smoothing=0.1).to(torch.float64)
    assert torch.autograd.gradcheck(
        lambda h, w, b: replace(case, h=h, weight=w, bias=b).run().loss, tuple(case.leaves())
    )


@pytest.mark.parametrize("need", [(True, True, True), (False, True, False), (False,) * 3])
@pytest.mark.parametrize("name", ["plain", "no bias", "no rows"])
def test_opcheck(name: str, need: tuple[bool, bool, bool]) -> None:
    case = sample_inputs()[name].to(torch.float64)
    leaves = [
        leaf if leaf is None or needed else leaf.detach()
        for leaf, needed in zip((case.h, case.weight, case.bias), need, strict=True)
    ]
    rest = (list(case.first_rows), case.targets, case.row_weight, torch.float64, case.label_smoothing, None)
    torch.library.opcheck(torch.ops.spanbert_ext.vocab_ce.default, (*leaves, *rest, *need))


def test_a_gradient_that_was_not_made_raises() -> None:
    case = sample(bias=False, blocks=1).to(torch.float64)
    loss, *_ = torch.ops.spanbert_ext.vocab_ce(
        case.h,
        case.weight,
        None,
        [0],
        case.targets,
        case.row_weight,
        torch.float64,
        0.0,
        None,
        True,
        False,
        False,
    )
    with pytest.raises(RuntimeError, match="was not made in forward"):
        loss.backward()


def test_upstream_gradients_scale_and_add_up() -> None:
    case = sample().to(torch.float64)
    half = gradients(case, "fused", factor=0.5)
    for got, whole in zip(half, gradients(case, "fused"), strict=True):
        torch.testing.assert_close(got, 0.5 * whole)
    # Two losses of one graph add up.
    first, second = case.run().loss, replace(case, label_smoothing=0.3).run().loss
    both = torch.autograd.grad(first + 3 * second, case.leaves())
    smoothed = gradients(replace(case, label_smoothing=0.3), "fused")
    for got, a, b in zip(both, gradients(case, "fused"), smoothed, strict=True):
        torch.testing.assert_close(got, a + 3 * b)


def test_backward_runs_twice_and_double_backward_raises() -> None:
    case = sample().to(torch.float64)
    loss = case.run().loss
    first = torch.autograd.grad(loss, case.leaves(), retain_graph=True)
    kept = [g.clone() for g in first]
    for g in first:
        g.zero_()  # a gradient that aliased what is saved would spoil the second pass
    for got, expected in zip(torch.autograd.grad(loss, case.leaves()), kept, strict=True):
        assert torch.equal(got, expected)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(case.run().loss, case.h, create_graph=True)


def test_frozen_inputs_skip_their_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    case = sample().to(torch.float64)
    full = gradients(case, "fused")
    for index in range(3):
        leaves = [leaf.detach().clone() for leaf in case.leaves()]
        leaves[index].requires_grad_()
        frozen = replace(case, h=leaves[0], weight=leaves[1], bias=leaves[2])
        (got,) = torch.autograd.grad(frozen.run().loss, leaves[index])
        torch.testing.assert_close(got, full[index])
    with torch.no_grad():
        output = case.run()
    assert not output.loss.requires_grad
    *_, dh_rows, _, dw, db = torch.ops.spanbert_ext.vocab_ce(
        case.h.detach(), case.weight.detach(), None, [0], case.targets, case.row_weight, torch.float64, 0.0,
        None, False, False, False,
    )  # fmt: skip
    assert dh_rows.numel() == dw.numel() == db.numel() == 0


def test_row_weights_have_a_gradient() -> None:
    case = sample(label_smoothing=0.1).to(torch.float64)
    case.row_weight.requires_grad_()
    fused, plain = (
        torch.autograd.grad(case.run(impl).loss, case.row_weight)[0] for impl in ("fused", "reference")
    )
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-10)


def test_batched_gradients_and_a_second_graph_leave_the_saved_ones_alone() -> None:
    case = sample().to(torch.float64)
    upstream = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    batched = torch.autograd.grad(case.run().loss, case.h, upstream, is_grads_batched=True)[0]
    torch.testing.assert_close(batched, upstream[:, None, None] * gradients(case, "fused")[0])


def test_nothing_to_predict_gives_zero_gradients() -> None:
    case = sample(12, 8, 33, ignored=1.1).to(torch.float64)
    output = case.run()
    assert output.loss.item() == 0
    assert output.prediction.tolist() == [-1] * 12
    for g in torch.autograd.grad(output.loss, case.leaves()):
        assert g.abs().max().item() == 0


@pytest.fixture(scope="module")
def compiled_run() -> Callable[[Sample], ops.VocabCEOutput]:
    """`Sample.run` as one graph, by inductor, whose C++ compiler takes seconds for each shape."""
    return torch.compile(Sample.run, fullgraph=True)


def test_ignored_rows_leave_no_uninitialised_value(compiled_run: Callable) -> None:
    for run in (Sample.run, compiled_run):
        case = sample(40, 8, 33, ignored=0.5).to(torch.float32)
        poison = [torch.full((40, 8), float("nan")) for _ in range(64)]
        del poison
        output = run(case)
        ignored = case.targets < 0
        grad_h, *_ = torch.autograd.grad(output.loss, case.leaves())
        assert grad_h[ignored].abs().max().item() == 0
        assert output.nll[ignored].abs().max().item() == 0
        assert set(output.prediction[ignored].tolist()) == {-1}


@pytest.mark.parametrize("magnitude", [0.0, 100.0])
def test_extreme_and_uniform_logits_equal_the_reference(magnitude: float) -> None:
    case = sample(20, 8, 33, blocks=1, bias=False, ignored=0)
    case.h = torch.ones(20, 8, dtype=torch.float64)
    case.weight = torch.zeros(33, 8, dtype=torch.float64)
    case.weight[0], case.weight[1] = magnitude / 8, -magnitude / 8
    case.targets = torch.arange(20) % 3
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        typed = case.to(dtype)
        torch.testing.assert_close(typed.run().nll, typed.run("reference").nll, rtol=0, atol=tolerance)
        for got, expected in zip(gradients(typed, "fused"), gradients(typed, "reference"), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [800.0, -float("inf")])
def test_extreme_biases_equal_the_reference_at_any_number_of_rows(dtype: torch.dtype, value: float) -> None:
    """Rows off the kernel's multiple of 16, and whole strips and tiles of the vocabulary without probability."""
    cases = (
        (31, 65, slice(3, 4)),
        (32, 65, slice(0, 32)),
        (7, 1060, slice(1024, 1060)),  # all but whole tiles of 512 entries
        (7, 1060, slice(768, 1060)),  # and of 768
    )
    for rows, vocab, extreme in cases:
        case = sample(rows, 8, vocab, blocks=1)
        case.bias[:, extreme] = value
        case.targets[case.targets >= 0] = 40 if value < 0 else 3
        case = case.to(dtype)
        exact = case.to(torch.float64)
        tolerance = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 2e-2}[dtype]
        options = {"rtol": tolerance, "atol": tolerance, "check_dtype": False}
        fused = [case.run().nll, *gradients(case, "fused")]
        plain = [case.run("reference").nll, *gradients(case, "reference")]
        expected = [exact.run("reference").nll, *gradients(exact, "reference")]
        for got, eager, want in zip(fused, plain, expected, strict=True):
            if dtype == torch.bfloat16 and value > 0:  # two logits of 800 may be 4 apart
                limit = max(tolerance, 1.1 * (eager.double() - want).abs().max().item())
                assert (got.double() - want).abs().max() <= limit
            else:
                torch.testing.assert_close(got, want, **options)


def test_one_target_everywhere_equals_the_reference_in_deterministic_mode() -> None:
    case = sample(300, 16, 65, ignored=0)
    case.targets = torch.full((300,), 7)
    case = case.to(torch.float64)
    torch.use_deterministic_algorithms(True)
    try:
        for got, expected in zip(gradients(case, "fused"), gradients(case, "reference"), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("wide", ["weight", "bias"])
def test_a_float64_parameter_under_autocast_is_refused(wide: str) -> None:
    case = sample(30, 8, 33).to(torch.float32)
    case = replace(case, **{wide: getattr(case, wide).detach().double()})
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(TypeError, match=f"{wide} has dtype Double"),
    ):
        case.run()


def test_a_tied_weight_and_a_master_weight_get_their_gradients() -> None:
    """One decoder for two calls and an embedding: gradients add up; a float32 master keeps float32 gradients."""
    case = sample(30, 8, 33, blocks=1, bias=False).to(torch.float32)
    ids = torch.arange(30)

    def loss(impl: str) -> Tensor:
        embedded = replace(case, h=F.embedding(ids, case.weight))
        return embedded.run(impl).loss + case.run(impl).loss

    torch.testing.assert_close(
        torch.autograd.grad(loss("fused"), case.weight), torch.autograd.grad(loss("reference"), case.weight)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = case.run()
    assert output.loss.dtype == torch.float32
    assert torch.autograd.grad(output.loss, case.weight)[0].dtype == torch.float32
    with pytest.raises(TypeError, match="weight has dtype torch.bfloat16 and h has torch.float32"):
        replace(case, weight=case.weight.detach().bfloat16()).run()


def test_inputs_stay_unchanged_and_may_be_strided() -> None:
    case = sample(30, 8, 33).to(torch.float64)
    wide_h = torch.stack([case.h.detach()] * 2, dim=2)[..., 0].requires_grad_()  # strides (16, 2)
    weight = case.weight.detach().t().contiguous().t().requires_grad_()
    strided = replace(
        case,
        h=wide_h,
        weight=weight,
        targets=torch.stack([case.targets] * 2, dim=1)[:, 0],
        row_weight=torch.stack([case.row_weight] * 2, dim=1)[:, 0],
    )
    assert not strided.h.is_contiguous() and not strided.targets.is_contiguous()
    before = [t.detach().clone() for t in (*strided.leaves(), strided.targets, strided.row_weight)]
    for got, expected in zip(gradients(strided, "fused"), gradients(case, "reference"), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)
    for t, copy in zip((*strided.leaves(), strided.targets, strided.row_weight), before, strict=True):
        assert torch.equal(t, copy)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"h": torch.zeros(33)}, ValueError, r"h has shape \[33\], expected \[N, D\]"),
        ({"weight": torch.zeros(127, 5)}, ValueError, "expected the same D"),
        ({"bias": torch.zeros(1, 127)}, ValueError, r"bias has shape \[1, 127\], expected \[2, 127\]"),
        ({"targets": torch.zeros(33)}, TypeError, "targets has dtype Float, expected int64"),
        (
            {"targets": torch.zeros(32, dtype=torch.int64)},
            ValueError,
            r"targets has shape \[32\], expected \[33\]",
        ),
        (
            {"targets": torch.full((33,), 127)},
            IndexError,
            r"targets\[0\] is 127, expected an id below V = 127",
        ),
        ({"row_weight": torch.zeros(33, dtype=torch.float64)}, TypeError, "row_weight has dtype Double"),
        ({"row_weight": torch.zeros(1)}, ValueError, "row_weight has shape"),
        ({"first_rows": (0, 99)}, ValueError, "first_rows is"),
        ({"first_rows": (1, 2)}, ValueError, "starting with 0"),
        ({"label_smoothing": 1.0}, ValueError, "label_smoothing is 1, expected 0 <= label_smoothing < 1"),
        ({"weight": torch.zeros(127, 16, device="meta")}, ValueError, "weight is on meta, expected cpu as h"),
        ({"h": torch.zeros(33, 16, dtype=torch.int64)}, TypeError, "h has dtype torch.int64"),
        ({"targets": 3}, TypeError, r"targets is 3 \(int\), expected a tensor"),
        ({"bias": "b"}, TypeError, r"bias is 'b' \(str\), expected a tensor or None"),
        ({"weight": torch.zeros(127, 16).to_sparse()}, ValueError, "weight is a torch.sparse_coo tensor"),
        ({"h": torch.zeros(33, 16).to_mkldnn()}, ValueError, "h is a torch._mkldnn tensor"),
        (
            {"h": torch.nested.nested_tensor([torch.zeros(3)], layout=torch.jagged)},
            ValueError,
            "h is a nested tensor",
        ),
        ({"first_rows": None}, TypeError, "first_rows is None, expected a sequence of ints"),
        ({"first_rows": (0, 1.5)}, TypeError, r"first_rows\[1\] is 1\.5 \(float\); expected an int"),
        ({"label_smoothing": "0.1"}, TypeError, r"label_smoothing is '0\.1' \(str\); expected a number"),
    ],
)
def test_bad_input_is_named(change: dict[str, object], error: type[Exception], message: str) -> None:
    case = replace(sample().to(torch.float32), **change)
    with pytest.raises(error, match=message):
        case.run()
    with pytest.raises(error, match=f"vocab_ce: .*{next(iter(change))}"):
        case.run("reference")


def test_nan_passes_into_the_loss_or_raises_in_debug_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    case = sample().to(torch.float32)
    case.h = case.h.detach().clone()
    case.h[5, 3] = case.h[6, 0] = float("nan")
    case.targets[5], case.targets[6] = 1, -100  # the NaN of an ignored row reaches nothing
    assert case.run().loss.isnan()
    monkeypatch.setenv("SPANBERT_EXT_DEBUG", "1")
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 33 rows, first in row 5"):
        case.run()


@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_what_an_ignored_row_holds_reaches_no_gradient(impl: str) -> None:
    case = sample().to(torch.float32)
    with torch.no_grad():
        case.h[case.targets < 0] = float("nan")
    assert case.run(impl).loss.isfinite()
    for got in gradients(case, impl):
        assert got.isfinite().all()


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("scale", [1.0, 2.0**-10])
def test_a_float16_sum_over_rows_is_divided_before_it_is_rounded(scale: float, with_bias: bool) -> None:
    """65,504 is float16's largest number; the sum over 4,096 rows is 4,096 * 20, its mean 20."""
    base = sample(4096, 8, 64, blocks=1, bias=with_bias, ignored=0, scale=0.001)
    base.h[:] = 20
    base.targets[:] = 5
    base.row_weight[:] = 1 / 4096
    case = base.to(torch.float16)
    exact = case.to(torch.float64)
    got, expected = gradients(case, "fused", scale), gradients(exact, "reference", scale)
    assert expected[1].abs().max() > 15 * scale
    for one, other in zip(got[1:], expected[1:], strict=True):
        assert one.dtype == torch.float16
        torch.testing.assert_close(one.double(), other, rtol=2e-3, atol=1e-4 * scale)


def test_unknown_impl_is_refused() -> None:
    with pytest.raises(ValueError, match="impl is 'slow'"):
        sample().to(torch.float32).run("slow")


def test_compile_fullgraph_matches_eager(compiled_run: Callable) -> None:
    case = sample(40, 8, 33, ignored=0.5).to(torch.float32)
    output, expected = compiled_run(case), case.run()
    for one, other in zip(output, expected, strict=True):
        torch.testing.assert_close(one, other)
    got = torch.autograd.grad(output.loss * 2, case.leaves())
    for one, other in zip(got, gradients(case, "fused", factor=2.0), strict=True):
        torch.testing.assert_close(one, other)
