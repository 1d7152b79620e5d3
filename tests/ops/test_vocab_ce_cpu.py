# SPDX-License-Identifier: Apache-2.0
"""What only the CPU code of `vocab_ce` promises: its bits at any number of threads, no subnormal
numbers, its memory, brgemm's layouts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from vocab_ce_samples import Sample, gradients, sample

from spanbert_ext import build_info

on_cpu_code = pytest.mark.skipif(bool(build_info()["cuda_emulated"]), reason="this build runs the CUDA code")


@pytest.fixture
def _any_number_of_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@on_cpu_code
@pytest.mark.usefixtures("_any_number_of_threads")
@pytest.mark.parametrize(
    ("rows", "width", "vocab", "groups"),
    [
        (450, 8, 3901, 1),  # chunks of rows, parts of the vocabulary
        (50, 400, 1600, 3),  # groups of dh's columns
        (500, 60, 5, 1),  # a single task: a product that MKL shares out by itself where it is let
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_number_of_threads_changes_no_bit(
    dtype: torch.dtype, rows: int, width: int, vocab: int, groups: int
) -> None:
    case = sample(rows, width, vocab, blocks=groups, label_smoothing=0.1).to(dtype)
    outputs = []
    for count in (1, 2, 8, 16):
        torch.set_num_threads(count)
        output = case.run()
        outputs.append([*output, *torch.autograd.grad(output.loss, case.leaves())])
    for one, *more in zip(*outputs, strict=True):
        for other in more:
            assert torch.equal(one, other)


@on_cpu_code
@pytest.mark.parametrize(("dtype", "deepest"), [(torch.float64, 760.0), (torch.float32, 110.0)])
def test_gradients_that_are_no_normal_numbers_are_zero(dtype: torch.dtype, deepest: float) -> None:
    """A product with one of them takes a processor a hundred cycles: unlikely words made a step 25 times as long."""
    tiny = torch.finfo(dtype).tiny
    case = sample(20, 8, 900, blocks=1, ignored=0).to(dtype)
    case.h = torch.ones_like(case.h).requires_grad_()
    case.weight = torch.zeros_like(case.weight).requires_grad_()
    case.bias = -torch.linspace(0, deepest, 900, dtype=dtype)[None].requires_grad_()
    case.targets = torch.zeros(20, dtype=torch.long)
    case.row_weight = torch.ones_like(case.row_weight)
    _, dw, db = gradients(case, "fused")
    (exact,) = torch.softmax(case.bias.detach().double(), 1)
    for got in (dw[:, 0], db[0]):
        assert ((got == 0) | (got.abs() >= tiny)).all()
        likely = exact >= 2 * tiny
        likely[0] = False  # the target
        torch.testing.assert_close(got[likely].double(), 20 * exact[likely], rtol=1e-4, atol=0)
        assert 10 < (~likely).sum() < 450 and (got[exact < tiny / 2] == 0).all()


@on_cpu_code
@pytest.mark.parametrize("width", [(7, 0), (0, 5)], ids=str)
def test_padding_is_not_infinite_where_no_row_is(width: tuple[int, int]) -> None:
    """An entry of the vocabulary that no row can predict, at numbers of rows on and off the kernels' multiples."""
    for rows in (1, 15, 16, 17, 33, 64):
        case = sample(rows, 8, 40, blocks=1, ignored=0)
        case.h = case.h.abs()
        case.weight[width] = -float("inf")
        case.targets[case.targets == width[0]] = 1
        case = case.to(torch.float64)
        for got, expected in zip(gradients(case, "fused"), gradients(case, "reference"), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9, equal_nan=True)


# --- Huge pages ----------------------------------------------------------------------------------------------------


def flags_at(address: int) -> set[str]:
    """The kernel's flags (VmFlags) of the mapping at an address of this process."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            begin, end = (int(bound, 16) for bound in bounds.groups())
            inside = begin <= address < end
        elif inside and line.startswith("VmFlags:"):
            return set(line.split()[1:])
    return set()


@on_cpu_code
def test_a_large_weight_gradient_lies_in_huge_pages() -> None:
    if not Path("/sys/kernel/mm/transparent_hugepage").is_dir() or not flags_at(id(object())):
        pytest.skip("this kernel has no transparent huge pages, or does not tell")
    case = sample(4, 64, 40_000, blocks=1, bias=False).to(torch.float32)
    dw = gradients(case, "fused")[1]  # 10 MB
    assert "hg" in flags_at(dw.data_ptr() + dw.nbytes // 2)


# --- brgemm, as plain loops in a build that emulates -----------------------------------------------------------------

has_emulated_brgemm = pytest.mark.skipif(
    not hasattr(torch.ops.spanbert_ext_tuning, "vocab_ce_brgemm"), reason="a build without emulated brgemm"
)


def run_brgemm(case: Sample, compute: torch.dtype) -> list[Tensor]:
    """nll and the gradients of h, weight and bias, of the CPU operator as it is where torch has brgemm."""
    _, nll, _, _, dh_rows, compact_rows, dw, db = torch.ops.spanbert_ext_tuning.vocab_ce_brgemm(
        case.h.detach(),
        case.weight.detach(),
        case.bias.detach(),
        list(case.first_rows),
        case.targets,
        case.row_weight,
        compute,
        case.label_smoothing,
        None,
        True,
        True,
        True,
    )
    live = (compact_rows >= 0)[:, None]
    return [nll, torch.where(live, dh_rows[compact_rows.clamp_min(0)], 0), dw, db]


@has_emulated_brgemm
@pytest.mark.parametrize(
    ("rows", "width", "vocab", "groups"),
    [
        (33, 16, 127, 2),  # less than a panel of rows, than a tile of the vocabulary
        (
            70,
            8,
            1029,
            1,
        ),  # three parts of the vocabulary, the last tile of 5 entries: a pair without a second row
        (65, 200, 600, 2),  # two groups of dh's columns, the last one less than a panel
        (2000, 6, 130, 1),  # chunks of rows, longer ones of bfloat16
    ],
)
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
def test_brgemm_reads_what_is_packed(
    stored: torch.dtype,
    compute: torch.dtype,
    rows: int,
    width: int,
    vocab: int,
    groups: int,
    tolerance: dict[torch.dtype, dict[str, float]],
) -> None:
    case = sample(rows, width, vocab, blocks=groups, label_smoothing=0.1).to(torch.bfloat16)
    exact = case.to(torch.float64)
    expected = [exact.run("reference").nll, *gradients(exact, "reference")]
    results = run_brgemm(case.to(stored), compute)
    assert torch.ops.spanbert_ext_tuning.threads_with_tiles() == 0
    for got, want in zip(results, expected, strict=True):
        scale = want.abs().max().clamp_min(1)
        rounded = stored if stored == torch.bfloat16 else compute
        torch.testing.assert_close(got.double() / scale, want / scale, **tolerance[rounded])


@has_emulated_brgemm
@pytest.mark.usefixtures("_any_number_of_threads")
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=str)
def test_the_number_of_threads_changes_no_bit_with_brgemm(compute: torch.dtype) -> None:
    case = sample(400, 20, 1600).to(torch.float32)
    results = []
    for count in (1, 2, 8, 16):
        torch.set_num_threads(count)
        results.append(run_brgemm(case, compute))
    for one, *more in zip(*results, strict=True):
        for other in more:
            assert torch.equal(one, other)


@has_emulated_brgemm
def test_bfloat16_is_multiplied_otherwise_while_onednn_is_off() -> None:
    """torch has no product of pairs then, and has it again afterwards."""
    case = sample(20, 8, 100, blocks=1).to(torch.float32)
    before = run_brgemm(case, torch.bfloat16)
    with torch.backends.mkldnn.flags(enabled=False):
        off = run_brgemm(case, torch.bfloat16)
    for one, other, again in zip(before, off, run_brgemm(case, torch.bfloat16), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)
        assert torch.equal(one, again)
    assert not torch.equal(
        before[-1], off[-1]
    )  # the gradient of the bias, of logits that are summed in another order
