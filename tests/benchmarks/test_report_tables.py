# SPDX-License-Identifier: Apache-2.0
"""The page of reports: its columns name what a ratio is against, and it says where this project loses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench_runs import import_from_benchmarks  # noqa: F401

COMMON = {
    "machine": {
        "cpu": "Some CPU",
        "cores": 2,
        "cpu_capability": "AVX2",
        "torch_threads": 1,
        "load_average": [0],
    },
    "rates": {"copy_gb_s": 10, "gemm_tflop_s": 0.1},
    "dtype": "float32",
    "versions": {"torch": "2.11"},
    "commit": "abc",
}


def spread(value: float) -> dict[str, float]:
    return {"p20": value, "p50": value, "p80": value}


def head_times(full: float, **over: float) -> dict[str, Any]:
    parts = {name: spread(full) for name in ("forward_ms", "backward_ms", "full_ms")}
    return {**parts, **{f"time_over_{name}": spread(ratio) for name, ratio in over.items()}, "peak_mb": 3.0}


def head_run(vocab: int = 28996) -> dict[str, Any]:
    return {
        "sizes": {"vocab": vocab, "mlm_rows": 616, "sbo_rows": 599},
        "rounds": 5,
        "reference": "fused",
        "providers": {
            "fused": head_times(10, fused=1, eager_masked=0.5, gemm_floor=1.25),
            "eager_masked": head_times(20, fused=2, eager_masked=1, gemm_floor=2.5),
            "compile": head_times(9, fused=0.9, eager_masked=0.45, gemm_floor=1.125),
        },
        "gemm_floor": {
            **head_times(8, fused=0.8, eager_masked=0.4, gemm_floor=1),
            "layouts": {"logits": "h @ W.T, 1280 x 29056, bfloat16", "grad_W": "g.T @ h, float32"},
        },
        "unavailable": {"cce": "no GPU"},
    }


def shown(tmp_path: Path, *reports: dict[str, Any]) -> str:
    from support.tables import page

    for number, report in enumerate(reports):
        (tmp_path / f"{number}.json").write_text(json.dumps(report))
    return page(tmp_path)


def losses(text: str) -> str:
    return text.split("## Where we lose")[1].split("## ")[0]


def test_head_names_what_each_ratio_is_against(tmp_path: Path) -> None:
    from support.tables import MARK

    report = {**COMMON, "benchmark": "bench_sbo", "shape": "base-8x512", "runs": [head_run()]}
    text = shown(tmp_path, report, {"benchmark": "of somebody else"}, {})
    assert text.startswith(MARK) and "Some CPU" in text
    assert "compile takes 0.90 of our time" in losses(text) and "eager_masked" not in losses(text)
    header = (
        "| provider | forward ms | backward ms | full ms | time / fused | time / eager_masked "
        "| time / bare GEMMs | peak MB |"
    )
    assert header in text
    assert "| eager_masked | 20 | 20 | 20 | 2.00 | 1.00 | 2.50 | 3 |" in text
    assert "| **fused** | 10 | 10 | 10 | 1.00 | 0.50 | 1.25 | 3 |" in text
    assert "* not measured: cce: no GPU" in text
    layouts = "fastest layouts: logits `h @ W.T, 1280 x 29056, bfloat16`; grad_W `g.T @ h, float32`"
    assert f"* three bare GEMMs, {layouts}\n" in text


def test_flat_reports_of_one_vocabulary_are_still_read(tmp_path: Path) -> None:
    old = head_run()
    for entry in (*old["providers"].values(), old["gemm_floor"]):
        del entry["time_over_eager_masked"], entry["time_over_gemm_floor"]
    old["gemm_floor"]["layouts"] = {"dtype": "bfloat16", "logits": "h @ W.T"}
    text = shown(tmp_path, {**COMMON, "benchmark": "bench_sbo", "shape": "base-8x512", **old})
    assert "| provider | forward ms | backward ms | full ms | time / fused | peak MB |" in text
    assert "| **fused** | 10 | 10 | 10 | 1.00 | 3 |" in text and "5 rounds" in text
    assert "fastest layouts: logits `h @ W.T`; bfloat16; no padded ones tried\n" in text
    gpu = {**COMMON, "machine": {**COMMON["machine"], "gpu": "Some GPU"}}
    text = shown(tmp_path, {**gpu, "benchmark": "bench_sbo", "shape": "base-8x512", **old})
    assert "no padded ones tried: no floor on a GPU\n" in text


def test_losses_of_each_vocabulary_are_told_apart(tmp_path: Path) -> None:
    padded = head_run(29056)
    padded["providers"]["compile"] = head_times(12, fused=1.2, eager_masked=0.6, gemm_floor=1.5)
    padded["unavailable"] = {}
    report = {**COMMON, "benchmark": "bench_sbo", "shape": "base-8x512", "runs": [head_run(), padded]}
    text = shown(tmp_path, report)
    assert "(vocabulary 28996): compile takes 0.90" in losses(text)
    assert "29056" not in losses(text)
    assert (
        "| compile | 28996 | 9 | 9 | 9 | 0.90 |" in text
        and "| compile | 29056 | 12 | 12 | 12 | 1.20 |" in text
    )
    assert "not measured at vocabulary 28996: cce" in text and "not measured at vocabulary 29056" not in text


def step_report(speeds: dict[tuple[str, str], float], **more: Any) -> dict[str, Any]:
    """Speeds in tokens a second, by provider and mode."""
    entries = [
        {
            "provider": name,
            "mode": mode,
            "tokens_per_s": speed,
            "step_ms": spread(1e5 / speed),
            "speed_over": {
                f"{who}, {how}": spread(speed / other)
                for (who, how), other in speeds.items()
                if who == "stock_mlm"
            },
            "peak_mb": 7.0,
        }
        for (name, mode), speed in speeds.items()
    ]
    report = {
        **COMMON,
        "benchmark": "bench_step",
        "shape": "base-32x512",
        "sizes": {"layers": 12},
        "backend": "inductor",
        "rounds": 4,
        "graphs_compiled_while_timed": 0,
        "unavailable": {},
        "entries": entries,
    }
    return {**report, **more}


def test_step_names_the_mode_that_a_ratio_is_against(tmp_path: Path) -> None:
    speeds = {("spanbert", "eager"): 150.0, ("stock_mlm", "eager"): 100.0, ("stock_mlm", "model"): 200.0}
    text = shown(tmp_path, step_report(speeds))
    header = (
        "| provider | mode | tokens/s | ms a step | speed against stock_mlm, eager "
        "| speed against stock_mlm, model compiled | peak MB |"
    )
    assert header in text
    assert "| **spanbert** | eager | 150 | 666.7 | 1.50 | 0.75 | 7 |" in text
    lost = losses(text)
    assert (
        "at its best (model compiled) stock_mlm makes 200 tokens/s, spanbert at its best (eager) 150" in lost
    )
    assert lost.count("stock_mlm makes") == 1  # ahead of it in eager mode


def test_step_loses_in_the_same_mode_once(tmp_path: Path) -> None:
    speeds = {
        ("spanbert", "eager"): 100.0,
        ("masked_only", "eager"): 90.0,
        ("spanbert", "layers"): 110.0,
        ("masked_only", "layers"): 120.0,
    }
    lost = losses(shown(tmp_path, step_report(speeds)))
    assert "layers compiled: masked_only makes 120 tokens/s, spanbert 110" in lost
    assert lost.count("* ") == 1


def test_step_shows_profiles_and_what_was_compiled_late(tmp_path: Path) -> None:
    report = step_report({("spanbert", "eager"): 150.0}, graphs_compiled_while_timed=2, complete=False)
    report["entries"][0] |= {"gpu_busy_ms": 31.5, "kernels": 812, "syncs": 1}
    text = shown(tmp_path, report)
    assert "| GPU busy ms | kernels | host syncs | peak MB |" in text and "| 31.5 | 812 | 1 | 7 |" in text
    assert "2 graphs were compiled while steps were timed" in text
    assert "12 layers, float32 (stopped early: what there was by then)" in text


@pytest.mark.parametrize("compiled, mode", [(False, "eager"), (True, "model compiled")])
def test_step_reports_of_one_mode_are_still_read(tmp_path: Path, compiled: bool, mode: str) -> None:
    report = step_report({})
    del report["entries"], report["backend"], report["graphs_compiled_while_timed"]
    providers = {
        name: {
            "tokens_per_s": speed,
            "step_ms": spread(1),
            "peak_mb": None,
            "speed_over_stock_mlm": spread(speed / 100),
        }
        for name, speed in (("spanbert", 90.0), ("stock_mlm", 100.0))
    }
    text = shown(tmp_path, {**report, "providers": providers, "compile": compiled, "reference": "stock_mlm"})
    assert f"| speed against stock_mlm, {mode} |" in text
    assert f"| **spanbert** | {mode} | 90 | 1 | 0.90 | - |" in text
    assert "stock_mlm makes 100 tokens/s, spanbert 90" in losses(text)
    assert "spanbert_no_sbo labels without masked positions" in text


def test_steps_come_before_the_loss_alone(tmp_path: Path) -> None:
    head = {**COMMON, "benchmark": "bench_sbo", "shape": "base-8x512", "runs": [head_run()]}
    text = shown(tmp_path, head, step_report({("spanbert", "eager"): 150.0}))
    assert text.index("## Training step") < text.index("## MLM + SBO loss")
