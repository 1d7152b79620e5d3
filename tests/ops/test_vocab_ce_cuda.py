# SPDX-License-Identifier: Apache-2.0
"""What only the CUDA code of `vocab_ce` does; in a build that emulates it, most of this runs on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cuda_code import on_cuda_code
from torch import Tensor
from vocab_ce_samples import Sample, gradients, sample, sample_inputs

from spanbert_ext import ops


@pytest.fixture(autouse=True)
def _no_checks_of_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANBERT_EXT_DEBUG", "0")


def on(case: Sample, device: str, dtype: torch.dtype = torch.float64) -> Sample:
    """`case` on a device, with leaves that require gradients."""
    moved = {
        name: None if tensor is None else tensor.to(device)
        for name, tensor in vars(case).items()
        if tensor is None or isinstance(tensor, Tensor)
    }
    return replace(case, **moved).to(dtype)


@on_cuda_code
@pytest.mark.parametrize("name", sample_inputs())
def test_float64_equals_reference(name: str, device: str) -> None:
    case = on(sample_inputs()[name], device)
    fused, plain = case.run(), case.run("reference")
    torch.testing.assert_close(fused.loss, plain.loss, rtol=0, atol=1e-10)
    torch.testing.assert_close(fused.nll, plain.nll, rtol=0, atol=1e-10)
    assert torch.equal(fused.prediction, plain.prediction)
    for got, expected in zip(gradients(case, "fused"), gradients(case, "reference"), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@on_cuda_code
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("vocab", [1, 7, 769, 5003])
def test_each_dtype_at_odd_sizes(
    dtype: torch.dtype, vocab: int, device: str, tolerance: dict[torch.dtype, dict[str, float]]
) -> None:
    case = on(sample(37, 16, vocab), device, dtype)
    exact = replace(case.to(torch.float64), row_weight=case.row_weight.double())
    output, expected = case.run(), exact.run("reference")
    torch.testing.assert_close(output.nll.double(), expected.nll, **tolerance[dtype])
    for got, want in zip(gradients(case, "fused"), gradients(exact, "reference"), strict=True):
        scale = want.abs().max().clamp_min(1)
        torch.testing.assert_close(got.double() / scale, want / scale, **tolerance[dtype])


@on_cuda_code
@pytest.mark.parametrize(
    ("vocab", "width", "blocks", "bias"),
    [
        (257, 13, 1, True),
        (1000, 31, 2, False),
        (1000, 16, 3, True),
        (28_996, 24, 2, True),
        (29_056, 9, 2, True),
        (29_056, 8, 1, False),  # the weight itself is the operand
        # 48 KB of shared memory and a little: bfloat16 rows, float32 rows
        (24_500, 8, 1, True),
        (12_200, 8, 1, True),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_padding_is_in_no_sum(
    vocab: int, width: int, blocks: int, bias: bool, dtype: torch.dtype, device: str
) -> None:
    """Sizes on and off every multiple that matrices are padded to; -inf forbids a word in one block alone.

    Of one case the largest error says little: twice eager's is allowed. T6 compares many cases.
    """
    case = sample(30, width, vocab, blocks=blocks, bias=bias)
    if bias:
        forbidden = (case.targets.max() + 1) % vocab
        case.bias[-1, forbidden] = -float("inf")
    case = on(case, device, dtype)
    exact = replace(case.to(torch.float64), row_weight=case.row_weight.double())
    output, expected = case.run(), exact.run("reference")
    plain = case.run("reference")
    limit = 1e-4 + 2 * (plain.nll.double() - expected.nll).abs().max().item()
    assert (output.nll.double() - expected.nll).abs().max() <= limit
    eager = gradients(case, "reference")
    for got, from_eager, want in zip(
        gradients(case, "fused"), eager, gradients(exact, "reference"), strict=True
    ):
        limit = 1e-5 + 2 * (from_eager.double() - want).abs().max().item()
        assert (got.double() - want).abs().max() <= limit
    if bias:
        assert gradients(case, "fused")[2][-1, forbidden] == 0


@on_cuda_code
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_target_that_its_bias_forbids_has_an_infinite_loss(dtype: torch.dtype, device: str) -> None:
    case = sample(20, 8, 100, blocks=2, ignored=0)
    case.targets[3] = case.targets[15] = 42
    case.targets[[0, 1, 2, 4]] = 41
    case.bias[0, 42] = -float("inf")
    output = on(case, device, dtype).run()
    assert output.nll[3] == float("inf") and output.nll[15].isfinite() and output.nll[0].isfinite()


@on_cuda_code
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_smoothing_over_a_forbidden_word_has_an_infinite_loss(dtype: torch.dtype, device: str) -> None:
    case = sample(20, 8, 200, blocks=2, ignored=0, label_smoothing=0.1)
    case.targets.clamp_(max=100)
    case.bias[0, [150, 151]] = -float("inf")
    output = on(case, device, dtype).run()
    assert (output.nll[:10] == float("inf")).all() and output.nll[10:].isfinite().all()


@on_cuda_code
def test_rows_beyond_a_bound_leave_no_uninitialised_value(device: str) -> None:
    case = on(sample(400, 8, 33, ignored=0), device, torch.float32)
    case.row_weight.requires_grad_()
    for _ in range(3):
        poison = [torch.full((400,), 77.0, device=device), torch.full((400,), 10**18, device=device)]
        del poison
        output = ops.vocab_ce(
            case.h,
            case.weight,
            case.bias,
            case.targets,
            case.row_weight,
            first_rows=case.first_rows,
            max_rows=100,
        )
        assert output.nll.isnan().all() and output.prediction.max() < 33
        (grad,) = torch.autograd.grad(output.loss, case.row_weight)
        assert grad.isnan().all()


@on_cuda_code
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_nan_in_a_bias_reaches_the_loss(dtype: torch.dtype, device: str) -> None:
    case = sample(20, 8, 100, blocks=2)
    case.bias[1, 7] = float("nan")
    assert on(case, device, dtype).run().loss.isnan()


@on_cuda_code
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_long_rows_of_16_bits_that_shared_memory_does_not_hold(dtype: torch.dtype, device: str) -> None:
    vocab = 70_001 if device == "cuda" else 20_001
    case = on(sample(5, 8, vocab, ignored=0, label_smoothing=0.1), device, dtype)
    exact = replace(case.to(torch.float64), row_weight=case.row_weight.double())
    torch.testing.assert_close(case.run().nll.double(), exact.run("reference").nll, rtol=3e-2, atol=2e-2)
    for got, want in zip(gradients(case, "fused"), gradients(exact, "reference"), strict=True):
        scale = want.abs().max()
        torch.testing.assert_close(got.double() / scale, want / scale, rtol=3e-2, atol=2e-2)


@on_cuda_code
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_first_of_equal_logits_is_predicted(dtype: torch.dtype, device: str) -> None:
    case = sample(6, 8, 5003, blocks=1, ignored=0)
    case.bias.zero_()
    case.weight[[4999, 611, 3000]] = 9 * case.h[0].sign()
    case.h[:] = case.h[0]
    assert case.targets.shape == (6,)
    assert on(case, device, dtype).run().prediction.tolist() == [611] * 6


@on_cuda_code
@pytest.mark.skipif(not hasattr(torch.ops.spanbert_ext_tuning, "vocab_ce"), reason="a build without tuning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_any_chunk_size_gives_the_same_loss_and_gradients(dtype: torch.dtype, device: str) -> None:
    case = on(sample(700, 16, 257, blocks=3), device, dtype)
    results = []
    for chunk_rows in (128, 384, 768):
        results.append(
            torch.ops.spanbert_ext_tuning.vocab_ce(
                case.h.detach(),
                case.weight.detach(),
                case.bias.detach(),
                list(case.first_rows),
                case.targets,
                case.row_weight,
                dtype,
                0.0,
                None,
                True,
                True,
                True,
                chunk_rows,
            )  # fmt: skip
        )
    tolerance = {"rtol": 1e-10, "atol": 1e-10} if dtype == torch.float64 else {"rtol": 2e-2, "atol": 1e-2}
    for other in results[:2]:
        for got, want in zip(other, results[2], strict=True):
            torch.testing.assert_close(got, want, **tolerance)


@pytest.mark.skipif(not hasattr(torch.ops.spanbert_ext_tuning, "chunk_rows"), reason="a build without tuning")
def test_chunks_fill_the_multiprocessors_and_stay_small() -> None:
    """At 132 multiprocessors 44 tiles of 128 rows by 3 of 256 columns are one wave: 5,632 rows."""
    rule = torch.ops.spanbert_ext_tuning.chunk_rows
    assert rule(39_424, 768, 29_056, 2, 132) == 5632
    assert rule(4992, 768, 29_056, 2, 132) == 4992
    assert rule(39_424, 768, 29_056, 4, 132) * 29_056 * 4 <= 512 << 20
    assert rule(39_424, 768, 250_112, 2, 132) == 2048
    assert rule(0, 768, 29_056, 2, 132) == 128


@on_cuda_code
def test_a_target_beyond_the_vocabulary_is_nan(device: str) -> None:
    case = on(sample(ignored=0), device)
    bad = replace(case, targets=case.targets.clone())
    bad.targets[3], bad.targets[20] = 127, 2**62
    output, expected = bad.run(), case.run()
    rows = torch.zeros(33, dtype=torch.bool, device=device)
    rows[3] = rows[20] = True
    assert output.loss.isnan() and output.nll[rows].isnan().all()
    torch.testing.assert_close(output.nll[~rows], expected.nll[~rows])
    grad_h, grad_weight, _ = gradients(bad, "fused")
    # A GradScaler looks at gradients, not at losses.
    assert grad_h[rows].isnan().all() and grad_weight.isnan().all()
    torch.testing.assert_close(grad_h[~rows], gradients(case, "fused")[0][~rows])


@on_cuda_code
def test_a_bound_changes_no_value_and_one_too_small_is_nan(device: str) -> None:
    case = on(sample(50, ignored=0.6), device)
    live = int((case.targets >= 0).sum())
    expected = gradients(case, "fused")

    def bounded(max_rows: int) -> tuple[ops.VocabCEOutput, tuple[Tensor, ...]]:
        output = ops.vocab_ce(
            case.h, case.weight, case.bias, case.targets, case.row_weight, first_rows=case.first_rows,
            max_rows=max_rows,
        )  # fmt: skip
        return output, torch.autograd.grad(output.loss, case.leaves())

    for max_rows in (live, live + 1, 10**9):
        output, got = bounded(max_rows)
        torch.testing.assert_close(output.loss, case.run().loss)
        torch.testing.assert_close(got, tuple(expected))
    for max_rows in (live - 1, 1):
        output, got = bounded(max_rows)
        assert output.loss.isnan() and got[1].isnan().any()
    assert bounded(0)[0].loss.isnan()


@on_cuda_code
def test_nothing_is_read_or_summed_from_ignored_rows(device: str) -> None:
    case = on(sample(ignored=0.5), device)
    spoilt = replace(case, h=case.h.detach().clone(), row_weight=case.row_weight.clone())
    ignored = case.targets < 0
    spoilt.h[ignored] = float("nan")
    spoilt.row_weight[ignored] = float("inf")
    spoilt.h.requires_grad_()
    assert torch.equal(spoilt.run().loss, case.run().loss)
    for got, want in zip(gradients(spoilt, "fused"), gradients(case, "fused"), strict=True):
        assert torch.equal(got, want)


@on_cuda_code
def test_the_same_bits_twice(device: str) -> None:
    case = on(sample(129, 16, 1031), device, torch.float32)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        first, second = gradients(case, "fused"), gradients(case, "fused")
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.needs_cuda
def test_no_synchronisation() -> None:
    case = on(sample(), "cuda", torch.bfloat16)
    gradients(case, "fused")
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradients(case, "fused")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.needs_cuda
def test_captured_graph_replays_with_new_values() -> None:
    case = on(sample(64, 32, 1000), "cuda", torch.float32)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        gradients(case, "fused")
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradients(case, "fused")
    with torch.no_grad():
        case.h.mul_(-1)
    case.targets.copy_(case.targets.flip(0))
    for _ in range(2):
        graph.replay()
        for got, want in zip(captured, gradients(case, "fused"), strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.needs_cuda
def test_compiled_with_cuda_graphs() -> None:
    case = on(sample(64, 32, 1000), "cuda", torch.float32)
    step = torch.compile(lambda h: replace(case, h=h).run().loss, fullgraph=True, mode="reduce-overhead")
    for sign in (1, -1, 1):
        h = (sign * case.h.detach()).requires_grad_()
        torch.compiler.cudagraph_mark_step_begin()
        (got,) = torch.autograd.grad(step(h), h)
        (want,) = torch.autograd.grad(replace(case, h=h).run().loss, h)
        torch.testing.assert_close(got, want)


@pytest.mark.needs_cuda
def test_autocast_with_float32_master_weight() -> None:
    case = on(sample(64, 32, 1000), "cuda", torch.float32)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        output = case.run()
    got = torch.autograd.grad(output.loss, case.leaves())
    assert [g.dtype for g in got] == [torch.float32] * 3
    exact = replace(case.to(torch.float64), row_weight=case.row_weight.double())
    for g, want in zip(got, gradients(exact, "reference"), strict=True):
        scale = want.abs().max()
        torch.testing.assert_close(g.double() / scale, want / scale, rtol=3e-2, atol=2e-2)


@pytest.mark.needs_cuda
def test_offsets_beyond_2_to_the_31() -> None:
    # 131,072 x 29,056 logits in one piece would be 3.8e9 elements; h alone has 2^31 + 2^14.
    rows, width, vocab = 131_073, 16_384, 64
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.fail("needs 40 GB of GPU memory")
    h = torch.zeros(rows, width, dtype=torch.bfloat16, device="cuda")
    h[-1] = 1
    weight = torch.zeros(vocab, width, dtype=torch.bfloat16, device="cuda")
    weight[5] = 1 / 256
    targets = torch.full((rows,), 5, device="cuda")
    output = ops.vocab_ce(h.requires_grad_(), weight, None, targets, torch.ones(rows, device="cuda"))
    assert output.prediction[-1].item() == 5
    torch.testing.assert_close(output.nll[-1].item(), 0.0, rtol=0, atol=1e-6)
    torch.testing.assert_close(output.nll[0].item(), 4.1588831, rtol=0, atol=1e-4)
    output.loss.backward()
    assert h.grad[-1].abs().max().item() < 1e-6 and h.grad[0].abs().max().item() > 1e-3


@pytest.mark.needs_cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_second_device_while_the_first_is_current() -> None:
    case = on(sample(), "cuda:1", torch.float32)
    with torch.cuda.device(0):
        output = case.run()
    assert output.loss.device == torch.device("cuda:1")
    torch.testing.assert_close(output.loss, case.run("reference").loss)
