# SPDX-License-Identifier: Apache-2.0
"""The floor of bench_sbo.py: three products that are right in every layout, of which the fastest is taken."""

from __future__ import annotations

import itertools

import pytest
import torch
from bench_runs import import_from_benchmarks  # noqa: F401

ROWS, VOCAB, WIDTH = 13, 257, 8


def test_sizes_hold_the_data_as_it_is_and_aligned() -> None:
    from support.gemm_floor import sizes

    assert sizes(4900, 28996) == [
        (4900, 28996, 28996),
        (4992, 29056, 29056),
        (4904, 29000, 29000),
        (4900, 28996, 29056),
    ]
    assert sizes(128, 256) == [(128, 256, 256)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)])
def test_every_layout_makes_its_product(
    device: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from support import gemm_floor

    if device == "cuda" and dtype == torch.bfloat16:
        assert gemm_floor.accumulates_in_float32(torch.device(device), dtype)
    calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    right = torch.mm

    def mm(left: torch.Tensor, other: torch.Tensor, *, out: torch.Tensor, **options: torch.dtype) -> object:
        calls.append((left, other, out))
        return right(left, other, out=out, **options)

    layouts = gemm_floor.make_layouts(torch.device(device), dtype, ROWS, VOCAB, WIDTH)
    monkeypatch.setattr(torch, "mm", mm)
    for product, candidates in layouts.items():
        assert len({str(layout) for layout in candidates}) == len(candidates)
        assert {(layout.rows, layout.vocab) for layout in candidates} == {(13, 257), (16, 264), (128, 384)}
        for layout in candidates:
            layout.work()
            left, other, out = calls.pop()
            expected = left.double() @ other.double()
            n, v = layout.rows, layout.vocab
            inner, shapes = {
                "logits": (WIDTH, {(n, v), (v, n)}),
                "grad_h": (v, {(n, WIDTH), (WIDTH, n)}),
                "grad_W": (n, {(v, WIDTH), (WIDTH, v)}),
            }[product]
            assert left.shape[1] == inner and tuple(out.shape) in shapes, layout
            torch.testing.assert_close(out.double(), expected, rtol=2e-2, atol=0.3)
            assert out.dtype == layout.dtype
            assert (left != 0).float().mean() > 0.9 and (other != 0).float().mean() > 0.9


def test_gradient_of_the_weight_is_float32_where_the_device_can(monkeypatch: pytest.MonkeyPatch) -> None:
    from support import gemm_floor

    cpu = torch.device("cpu")
    bare = gemm_floor.make_layouts(cpu, torch.bfloat16, ROWS, VOCAB, WIDTH)
    assert {layout.dtype for layout in bare["grad_W"]} == {torch.bfloat16}

    right = torch.mm

    def mm(
        left: torch.Tensor, other: torch.Tensor, *, out: torch.Tensor, out_dtype: torch.dtype | None = None
    ) -> object:
        assert (out_dtype or left.dtype) == out.dtype
        return out.copy_(right(left.float(), other.float()))

    monkeypatch.setattr(torch, "mm", mm)  # as on CUDA
    wide = gemm_floor.make_layouts(cpu, torch.bfloat16, ROWS, VOCAB, WIDTH)
    assert {layout.dtype for layout in wide["grad_W"]} == {torch.float32}
    assert {layout.dtype for layout in wide["logits"] + wide["grad_h"]} == {torch.bfloat16}
    for layout in wide["grad_W"]:
        layout.work()
    assert "float32" in str(wide["grad_W"][0])


@pytest.mark.parametrize("seed", range(20))
def test_the_fastest_of_all_that_was_measured_is_chosen(seed: int) -> None:
    from support.gemm_floor import Layout, fastest

    generator = torch.Generator().manual_seed(seed)
    layouts = [Layout("h @ W.T", n, 257, 257, torch.float32, lambda: None) for n in range(8)]
    measured: dict[str, list[float]] = {str(layout): [] for layout in layouts}

    def measure(layout: Layout) -> float:
        measured[str(layout)].append(float(torch.rand((), generator=generator)))
        return measured[str(layout)][-1]

    chosen, times = fastest(layouts, measure)
    assert all(measured.values())
    assert times == {name: min(found) for name, found in measured.items()}
    assert times[str(chosen)] == min(itertools.chain(*measured.values()))


def test_layouts_are_named_with_their_sizes_and_dtype() -> None:
    from support.gemm_floor import Layout

    plain = Layout("h @ W.T", 13, 257, 257, torch.bfloat16, lambda: None)
    assert str(plain) == "h @ W.T, 13 x 257, bfloat16"
    pitched = Layout("g.T @ h", 13, 257, 384, torch.float32, lambda: None)
    assert str(pitched) == "g.T @ h, 13 x 257 at a pitch of 384, float32"
