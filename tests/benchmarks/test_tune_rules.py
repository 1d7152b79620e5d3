# SPDX-License-Identifier: Apache-2.0
"""What benchmarks/tune_cuda.py expects of a card, what it plans to measure, and what its rules conclude."""

from __future__ import annotations

from typing import Any

import pytest
from bench_runs import import_from_benchmarks  # noqa: F401

# --- Predictions ----------------------------------------------------------------------------------------------------


def test_a_product_is_predicted_by_waves_of_tiles() -> None:
    from support.tuner.card import CARDS, LAUNCH_US, TILE_US, product_us, tiles

    card = CARDS["h200"]
    assert tiles(4992, 768) == 39 * 3 and tiles(768, 4992) == 39 * 3
    one_wave = product_us(card, 4992, 768, 29_056, aligned=True, out_bytes=2)
    tile_us = 2 * 128 * 256 * 29_056 / (788e6 / 132)
    assert one_wave == pytest.approx(tile_us + TILE_US + LAUNCH_US)
    two_waves = product_us(
        card, 5760, 768, 29_056, aligned=True, out_bytes=2
    )  # 135 tiles for 132 multiprocessors
    assert two_waves == pytest.approx(2 * (tile_us + TILE_US) + LAUNCH_US)
    assert product_us(card, 4992, 768, 29_056, aligned=False, out_bytes=2) > 2 * one_wave


def test_small_products_are_cut_and_thin_ones_wait_for_memory() -> None:
    from support.tuner.card import CARDS, LAUNCH_US, memory_us, product_us

    card = CARDS["h200"]
    few = product_us(card, 640, 768, 29_056, aligned=True, out_bytes=2)  # 15 tiles: 8 parts each
    assert few < product_us(card, 4992, 768, 29_056, aligned=True, out_bytes=2) / 6
    thin = product_us(card, 8, 768, 29_056, aligned=True, out_bytes=2)
    assert thin == pytest.approx(memory_us(card, 2 * (8 + 768) * 29_056 + 2 * 8 * 768) + LAUNCH_US, rel=0.5)


def test_the_row_kernel_is_bound_by_memory_until_it_has_too_many_instructions() -> None:
    from support.tuner.card import CARDS, LAUNCH_US, memory_us, row_kernel_us

    card = CARDS["h200"]
    fast = row_kernel_us(card, 4992, 29_056, 10.6)
    assert fast == pytest.approx(memory_us(card, 4 * 4992 * 29_056) + LAUNCH_US)
    assert row_kernel_us(card, 4992, 29_056, 38.0) > 2 * fast


def test_cards_are_found_by_name() -> None:
    from support.tuner.card import CARDS, find_card

    assert find_card("NVIDIA H100 80GB HBM3") is CARDS["h100"]
    assert find_card("NVIDIA H200") is CARDS["h200"]


def test_the_plan_lists_every_line_and_fits_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    import tune_cuda
    from support.tuner.session import Sizes

    assert tune_cuda.main(["--plan"]) == 0
    printed = capsys.readouterr().out
    card = tune_cuda.CARDS["h200"]
    for part, (limit, make) in tune_cuda.PARTS.items():
        lines = make(Sizes(), card)
        names = [line.name for line in lines]
        assert len(set(names)) == len(names) and all(name in printed for name in names)
        if part != "step":  # its last lines wait for time that others leave
            assert sum(line.seconds for line in lines) <= limit
        assert all(line.predicted_us > 0 for line in lines)
    assert sum(limit for limit, _ in tune_cuda.PARTS.values()) <= 240


def test_gemm_holds_every_form_in_question() -> None:
    from support.tuner.gemm import gemm_products
    from support.tuner.session import Sizes

    sizes = Sizes()
    found = gemm_products(sizes)
    assert len(set(found)) == len(found)
    forms = {
        (form, p.number, p.rows, p.vocab, p.inner, p.out, p.beta)
        for form, p in found
        if p.width == sizes.width
    }
    for vocab in (29_000, 29_056):
        assert {("aligned", 1, 4992, vocab, inner, "bfloat16", 0) for inner in (776, 832)} <= forms
        for rows in (4928, 4992, 5120):
            assert ("aligned", 2, rows, vocab, 832, "float32", 0) in forms
            assert ("aligned", 3, rows, vocab, 832, "bfloat16", 0) in forms
    for rows in (640, 1280, 4992, 11_264):
        for out in ("float32", "bfloat16"):
            assert {("aligned", 2, rows, 29_056, 832, out, beta) for beta in (0, 1)} <= forms
    misaligned = {product.number for form, product in found if form == "as now" and not product.aligned}
    assert misaligned == {1, 2, 3} and all(product.aligned for form, product in found if form == "aligned")


# --- Rules ----------------------------------------------------------------------------------------------------------


def gemm_results(us: dict[tuple[str, int], float], kernel: str = "nvjet_hsh") -> list[dict[str, Any]]:
    """All lines of the part as if measured: microseconds by form and product, else 400, with cublaslt 10 % faster."""
    from support.tuner.card import CARDS
    from support.tuner.gemm import gemm_lines
    from support.tuner.session import Sizes, entry

    found = []
    for line in gemm_lines(Sizes(), CARDS["h200"]):
        time_us = us.get((line.key["form"], line.key["product"]), 400.0)
        time_us *= 0.9 if line.key["library"] == "cublaslt" else 1
        figures = {"measured_us": time_us, "rate": line.amount / time_us / 1e6, "kernel": kernel}
        found.append(entry(line) | figures)
    return found


def test_rules_read_the_products() -> None:
    from support.tuner.rules import decide
    from support.tuner.session import Sizes

    sizes = Sizes()
    decisions = decide(gemm_results({("as now", 2): 900.0, ("aligned", 1): 380.0}), sizes)
    assert decisions["engine"].startswith("keep cuBLAS through ATen: aligned products run at 1: 635")
    assert decisions["library"].startswith(
        "prefer cublasLt: cublasLt is more than 1.08 x as fast at 50 of 50 shapes"
    )
    assert decisions["unequal"].startswith("as now, product 2 is the slow one")
    assert decisions["fallbacks"].startswith("0 of 116 products")
    assert decisions["result_of_dw"] == "float32 dW: float32 runs at 1.00 of bfloat16's rate"
    assert decisions["width"].startswith("D' = 776")
    assert "row_kernel" not in decisions and "idle" not in decisions

    slow = decide(gemm_results({("aligned", 3): 500.0}, kernel="ampere_bf16_s16816gemm"), sizes)
    assert slow["engine"].startswith("try cublasLt directly")
    assert slow["fallbacks"].startswith("116 of 116 products") and "aligned" in slow["fallbacks"]
    assert slow["unequal"].startswith("all three products as now are alike")


def test_float32_results_that_are_slow_are_made_in_bfloat16() -> None:
    from support.tuner.rules import decide
    from support.tuner.session import Sizes

    lines = gemm_results({})
    for line in lines:
        if line["key"]["out"] == "float32":
            line["rate"] *= 0.8
    assert decide(lines, Sizes())["result_of_dw"].startswith("bfloat16 dW and one cast")


def test_rules_read_row_kernels_chunks_and_steps() -> None:
    from support.tuner.rules import decide
    from support.tuner.session import Sizes

    def line(part: str, name: str, us: float, key: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"part": part, "name": name, "key": key, "measured_us": us, **more}

    lines = [
        line("ce", "a", 230.0, {"variant": "512x2", "rows": 4992}),
        line("ce", "b", 210.0, {"variant": "256x4", "rows": 4992}),
        line("chunk", "a", 12e3, {"chunk": 5632}),
        line("chunk", "b", 11e3, {"chunk": 11_264}),
        line("step", "eager", 33e3, {}, busy_over_wall=0.7, syncs=1, kernels=900),
        line("step", "layers", 28e3, {}, busy_over_wall=0.97, syncs=0, kernels=500),
    ]
    decisions = decide(lines, Sizes())
    assert (
        decisions["row_kernel"].startswith("row kernel 256x4: 512x2 230 us")
        and "190" in decisions["row_kernel"]
    )
    assert decisions["chunk_rows"] == "chunks of 11264 rows: 5632 12.00 ms, 11264 11.00 ms"
    assert decisions["idle"] == "launches or syncs, not kernels: step eager (0.70, 1 syncs, 900 kernels)"
    lines[1]["measured_us"], lines[4]["busy_over_wall"] = 150.0, 0.9
    decisions = decide(lines, Sizes())
    assert "190" not in decisions["row_kernel"] and decisions["idle"].startswith("no profiled step")
