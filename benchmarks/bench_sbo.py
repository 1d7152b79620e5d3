# SPDX-License-Identifier: Apache-2.0
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
with respect to rows and weight) on preallocated memory, each in the fastest of the layouts that were tried,
aligned ones too, with outputs in the fused operator's dtypes: no cross-entropy, no heads.

A vocabulary that is no multiple of 128 is slow without padding. With --vocab both every provider runs on
the vocabulary as it is and on the next multiple of 128, so that a gain by alignment can be told from others.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from providers.heads import BUILDERS
from support.cli import add_measuring, check_measuring, checkpoint, make_parser, measure
from support.clock import Stopwatch, interleave, quantiles, ratios
from support.errors import Unavailable
from support.gemm_floor import gemm_floor, round_up
from support.head_runner import Bench, build, child_peaks
from support.machine import commit, machine, versions
from support.memory import in_child, watch_cuda_memory
from support.plots import Bars, plot_bars
from support.rates import device_rates
from support.report import Progress, format_table
from support.tables import by_provider
from support.text import FIRST_WORD, Shape

EXAMPLES = """examples:
  python benchmarks/bench_sbo.py --device cpu --shape base-8x512 --json out.json --plot out.png
  python benchmarks/bench_sbo.py --device cuda --shape base-32x512 --dtype bfloat16 --json out.json
  python benchmarks/bench_sbo.py --shape base-32x512-ragged --providers fused,eager_masked
  python benchmarks/bench_sbo.py --shape tiny --repeats 3        (shows that it works, not what is fast)
"""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


ALIGNED = 128  # values
RATIOS = ("eager_masked", "compile")  # providers that each time is set against, beside the reference


def vocabularies(options: argparse.Namespace) -> list[int]:
    """The sizes to measure, each once."""
    if options.vocab not in (None, "both"):
        return [options.vocab]
    own = Shape.parse(options.shape).vocab
    both = options.vocab == "both" or options.device == "cuda"
    return list(dict.fromkeys([own, round_up(own, ALIGNED)] if both else [own]))


def run_vocabulary(options: argparse.Namespace, vocab: int, progress: Progress) -> dict[str, Any]:
    """The part of the report on one vocabulary."""
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    shape = Shape.parse(options.shape, vocab)
    bench = Bench(shape, device, dtype)
    setting = bench.setting(progress)
    progress(
        f"{shape} on {device}, {options.dtype}, {torch.get_num_threads()} threads, "
        f"{setting.rows[0]} MLM rows, {setting.rows[1]} SBO rows"
    )
    providers, unavailable = build(BUILDERS, options.providers, setting)
    if not providers:
        raise SystemExit(f"no provider can run here: {unavailable}")
    checked, wrong = bench.check(providers, progress)
    providers = [provider for provider in providers if provider.name in checked]
    unavailable.update(wrong)

    tasks = {provider.name: bench.task(provider) for provider in providers}
    tasks["gemm_floor"], layouts, tried = gemm_floor(setting)
    for name, task in tasks.items():
        task(-1, Stopwatch(device))  # the equality check was the first step
        progress(f"warmed up  {name}")
    samples = interleave(tasks, Stopwatch(device), options.repeats, options.seconds, progress)

    try:
        if device.type == "cuda":
            peaks = bench.peaks(providers, watch_cuda_memory(device), progress)
        else:
            tuned = {provider.name: dict(provider.notes) for provider in providers}
            builders = {name: BUILDERS[name] for name in tuned}
            peaks = in_child(child_peaks, shape, dtype, builders, tuned, torch.get_num_threads(), progress)
    except Unavailable as reason:
        peaks = {}
        unavailable["peak_mb"] = str(reason)

    reference = "fused" if "fused" in samples else providers[0].name
    against = [name for name in dict.fromkeys([reference, *RATIOS, "gemm_floor"]) if name in samples]

    def times(name: str) -> dict[str, dict[str, float]]:
        rounds = samples[name]
        return {
            "forward_ms": quantiles([sample["forward"] for sample in rounds]),
            "backward_ms": quantiles([sample["full"] - sample["forward"] for sample in rounds]),
            "full_ms": quantiles([sample["full"] for sample in rounds]),
            **{f"time_over_{other}": ratios(samples, name, other) for other in against},
        }

    return {
        "sizes": {**dataclasses.asdict(shape), "mlm_rows": setting.rows[0], "sbo_rows": setting.rows[1]},
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
        "gemm_floor": {**times("gemm_floor"), "layouts": layouts, "tried_ms": tried},
        "unavailable": unavailable,
    }


def run(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """The whole benchmark; returns the report that --json writes, with one of `runs` for each vocabulary."""
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    described = machine(device)  # before the work: the load of other processes
    report: dict[str, Any] = {
        "benchmark": "bench_sbo",
        "machine": described,
        "rates": device_rates(device, dtype),
        "device": options.device,
        "shape": options.shape,
        "dtype": options.dtype,
        "versions": versions(["transformers", "triton", "liger-kernel", "cut-cross-entropy"]),
        "commit": commit(),
        "runs": [],
    }
    for vocab in vocabularies(options):
        report["runs"].append(run_vocabulary(options, vocab, progress))
        checkpoint(options, report)
    return {**report, "complete": True}


def summary(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    runs = report["runs"]
    entries = by_provider(runs)
    against = dict.fromkeys(key for _, _, entry in entries for key in entry if key.startswith("time_over_"))
    rows = []
    for name, vocab, entry in entries:
        full, peak = entry["full_ms"], entry.get("peak_mb")
        rows.append(
            [
                name,
                str(vocab),
                f"{entry['forward_ms']['p50']:.2f}",
                f"{entry['backward_ms']['p50']:.2f}",
                f"{full['p50']:.2f}",
                f"{full['p20']:.2f} .. {full['p80']:.2f}",
                *("-" if key not in entry else f"{entry[key]['p50']:.2f}" for key in against),
                "-" if peak is None else f"{peak:.1f}",
            ]
        )
    header = ["provider", "vocabulary", "forward ms", "backward ms", "full ms", "p20 .. p80"]
    header += [f"time/{key.removeprefix('time_over_')}" for key in against]
    lines = [
        f"{report['shape']} {report['dtype']} on {report['machine'].get('gpu') or report['machine']['cpu']}, "
        f"{runs[0]['rounds']} rounds, {report['machine']['torch_threads']} CPU threads; copy "
        f"{report['rates']['copy_gb_s']:.0f} GB/s, GEMM {report['rates']['gemm_tflop_s']:.2f} TFLOP/s",
        format_table([*header, "peak MB"], rows),
    ]
    for found in runs:
        at = f"at {found['sizes']['vocab']}" if len(runs) > 1 else ""
        layouts = "; ".join(f"{name} {layout}" for name, layout in found["gemm_floor"]["layouts"].items())
        lines.append(f"gemm_floor {at}: {layouts}")
        lines += [
            f"{name} {at}: {entry['notes']}" for name, entry in found["providers"].items() if "notes" in entry
        ]
        lines += [f"not measured {at}: {name}: {reason}" for name, reason in found["unavailable"].items()]
    return "\n".join(line.replace(" :", ":") for line in lines)


def plot(report: dict[str, Any], path: Path) -> None:
    processor = report["machine"].get("gpu") or report["machine"]["cpu"]
    title = f"MLM + SBO loss, {report['shape']}, {report['dtype']}, {processor}"
    several = len(report["runs"]) > 1
    entries = {
        f"{name}, {vocab}" if several else name: entry
        for name, vocab, entry in by_provider(report["runs"])
        if name != "gemm_floor"
    }
    time = {name: entry["full_ms"] for name, entry in entries.items()}
    forward = {name: entry["forward_ms"]["p50"] for name, entry in entries.items()}
    memory = {
        name: {"p50": entry["peak_mb"]} for name, entry in entries.items() if entry["peak_mb"] is not None
    }
    floor = ("three bare GEMMs", report["runs"][0]["gemm_floor"]["full_ms"]["p50"])
    plot_bars(
        path, title, [Bars("ms, forward (dark) and backward", time, forward, floor), Bars("peak MB", memory)]
    )


def vocabulary(text: str) -> int | str:
    """An argument of --vocab."""
    if text == "both":
        return text
    if not text.isdecimal() or int(text) <= FIRST_WORD:
        raise argparse.ArgumentTypeError(f"expected both or a size above {FIRST_WORD}, not {text!r}")
    return int(text)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--shape",
        default="base-8x512",
        help="tiny, or (tiny|base|large)-ROWSxLENGTH[-ragged]; ragged: a line of text a row (default %(default)s)",
    )
    parser.add_argument(
        "--vocab",
        type=vocabulary,
        metavar="both|SIZE",
        help="a vocabulary size instead of the shape's (28996, tiny 257); both: the shape's and the next multiple "
        "of 128, in one table (default: both on CUDA, the shape's on the CPU)",
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
        vocabularies(options)
    except ValueError as error:
        parser.error(str(error))
    check_measuring(parser, options, list(BUILDERS))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    return measure(parse(arguments), run, summary, plot)


if __name__ == "__main__":
    sys.exit(main())
