"""Benchmark of the whole span pre-training loss: MLM head plus span-boundary objective, forward and backward.

Every provider computes both heads' losses and all gradients (hidden states, decoder weight, both vocabulary
biases, the MLM transform and the SBO network) from the same hidden states and the same random span masks,
fresh in every round. Before anything is timed, each provider's loss and gradients are compared with a float64
oracle; one that is wrong ends the run with exit status 1 (another project's is listed as wrong and left out).

  forward   from the hidden states to the loss, with autograd recording (providers that make gradients in the
            forward pass, as fused and torch_linear_ce do, pay for them here)
  full      forward and backward
  backward  full minus forward

`gemm_floor` is the time of the three bare matrix products of both heads' decoder (logits, their gradients
with respect to rows and weight) on preallocated memory, each in the fastest of its layouts here: no
cross-entropy, no heads.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from cli import add_measuring, check_measuring, make_parser, measure
from common import (
    Progress,
    Stopwatch,
    Unavailable,
    commit,
    device_rates,
    format_table,
    interleave,
    machine,
    quantiles,
    ratios,
    versions,
)
from memory import in_child, watch_cuda_memory
from plots import Bars, plot_bars
from sbo_providers import BUILDERS
from sbo_runner import Bench, build, child_peaks, gemm_floor
from text import Shape

EXAMPLES = """examples:
  python benchmarks/bench_sbo.py --device cpu --shape base-8x512 --json out.json --plot out.png
  python benchmarks/bench_sbo.py --device cuda --shape base-32x512 --dtype bfloat16 --json out.json
  python benchmarks/bench_sbo.py --shape base-32x512-ragged --providers fused,eager_masked
  python benchmarks/bench_sbo.py --shape tiny --repeats 3        (shows that it works, not what is fast)
"""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def run(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """The whole benchmark; returns the report that --json writes."""
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    shape = Shape.parse(options.shape, options.vocab)
    bench = Bench(shape, device, dtype)
    setting = bench.setting(progress)
    described = machine(device)  # before the work: the load should be other people's
    progress(
        f"{shape} on {device}, {options.dtype}, {torch.get_num_threads()} threads, "
        f"{setting.rows[0]} MLM rows, {setting.rows[1]} SBO rows"
    )
    providers, unavailable = build(options.providers, setting)
    if not providers:
        raise SystemExit(f"no provider can run here: {unavailable}")
    checked, wrong = bench.check(providers, progress)
    providers = [provider for provider in providers if provider.name in checked]
    unavailable.update(wrong)

    tasks = {provider.name: bench.task(provider) for provider in providers}
    floor_task, layouts = gemm_floor(setting)
    tasks["gemm_floor"] = floor_task
    for name, task in tasks.items():
        task(-1, Stopwatch(device))  # the equality check was the first step
        progress(f"warmed up  {name}")
    samples = interleave(tasks, Stopwatch(device), options.repeats, options.seconds, progress)

    try:
        if device.type == "cuda":
            peaks = bench.peaks(providers, watch_cuda_memory(device), progress)
        else:
            tuned = {provider.name: dict(provider.notes) for provider in providers}
            peaks = in_child(child_peaks, shape, dtype, tuned, torch.get_num_threads(), progress)
    except Unavailable as reason:
        peaks = {}
        unavailable["peak_mb"] = str(reason)

    reference = "fused" if "fused" in samples else providers[0].name

    def times(name: str) -> dict[str, dict[str, float]]:
        rounds = samples[name]
        return {
            "forward_ms": quantiles([sample["forward"] for sample in rounds]),
            "backward_ms": quantiles([sample["full"] - sample["forward"] for sample in rounds]),
            "full_ms": quantiles([sample["full"] for sample in rounds]),
            f"time_over_{reference}": ratios(samples, name, reference),
        }

    return {
        "benchmark": "bench_sbo",
        "machine": described,
        "rates": device_rates(device, dtype),
        "device": options.device,
        "shape": shape.name,
        "sizes": {**dataclasses.asdict(shape), "mlm_rows": setting.rows[0], "sbo_rows": setting.rows[1]},
        "dtype": options.dtype,
        "versions": versions(["transformers", "triton", "liger-kernel", "cut-cross-entropy"]),
        "commit": commit(),
        "rounds": len(samples[reference]),
        "reference": reference,
        "providers": {
            provider.name: {
                **times(provider.name),
                "peak_mb": peaks.get(provider.name),
                "precision": provider.precision,
                **checked[provider.name],
                **({"notes": provider.notes} if provider.notes else {}),
            }
            for provider in providers
        },
        "gemm_floor": {**times("gemm_floor"), "layouts": layouts},
        "unavailable": unavailable,
    }


def summary(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    reference = report["reference"]
    floor = report["gemm_floor"]["full_ms"]["p50"]
    base_peak = report["providers"][reference]["peak_mb"]
    rows = []
    for name, entry in [*report["providers"].items(), ("gemm_floor", report["gemm_floor"])]:
        full, peak = entry["full_ms"], entry.get("peak_mb")
        rows.append(
            [
                name,
                f"{entry['forward_ms']['p50']:.2f}",
                f"{entry['backward_ms']['p50']:.2f}",
                f"{full['p50']:.2f}",
                f"{full['p20']:.2f} .. {full['p80']:.2f}",
                f"{entry[f'time_over_{reference}']['p50']:.2f}",
                f"{full['p50'] / floor:.2f}",
                "-" if peak is None else f"{peak:.1f}",
                "-" if not (peak and base_peak) else f"{peak / base_peak:.2f}",
            ]
        )
    header = [
        "provider",
        "forward ms",
        "backward ms",
        "full ms",
        "p20 .. p80",
        f"time/{reference}",
        "time/floor",
    ]
    lines = [
        f"{report['shape']} {report['dtype']} on {report['machine'].get('gpu') or report['machine']['cpu']}, "
        f"{report['rounds']} rounds, {report['machine']['torch_threads']} CPU threads; copy "
        f"{report['rates']['copy_gb_s']:.0f} GB/s, GEMM {report['rates']['gemm_tflop_s']:.2f} TFLOP/s",
        format_table([*header, "peak MB", f"peak/{reference}"], rows),
    ]
    lines += [f"{name}: {entry['notes']}" for name, entry in report["providers"].items() if "notes" in entry]
    lines += [f"not measured: {name}: {reason}" for name, reason in report["unavailable"].items()]
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    processor = report["machine"].get("gpu") or report["machine"]["cpu"]
    title = f"MLM + SBO loss, {report['shape']}, {report['dtype']}, {processor}"
    entries = report["providers"]
    time = {name: entry["full_ms"] for name, entry in entries.items()}
    forward = {name: entry["forward_ms"]["p50"] for name, entry in entries.items()}
    memory = {
        name: {"p50": entry["peak_mb"]} for name, entry in entries.items() if entry["peak_mb"] is not None
    }
    floor = ("three bare GEMMs", report["gemm_floor"]["full_ms"]["p50"])
    plot_bars(
        path, title, [Bars("ms, forward (dark) and backward", time, forward, floor), Bars("peak MB", memory)]
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--shape",
        default="base-8x512",
        help="tiny, or (tiny|base|large)-ROWSxLENGTH[-ragged]; ragged: a line of text a row (default %(default)s)",
    )
    parser.add_argument(
        "--vocab", type=int, help="vocabulary size instead of 28996 (29056 is a multiple of 128)"
    )
    parser.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        default="float32",
        help="bfloat16 is autocast over float32 parameters (default %(default)s)",
    )
    add_measuring(parser, list(BUILDERS), repeats=20, seconds=150)
    options = parser.parse_args(arguments)
    try:
        Shape.parse(options.shape, options.vocab)
    except ValueError as error:
        parser.error(str(error))
    check_measuring(parser, options, list(BUILDERS))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    return measure(parse(arguments), run, summary, plot)


if __name__ == "__main__":
    sys.exit(main())
