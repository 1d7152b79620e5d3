# SPDX-License-Identifier: Apache-2.0
"""Benchmark of one training step of a BERT: forward, backward, AdamW; tokens a second and peak memory.

  spanbert              SpanBertForPreTraining, MLM and SBO, on what DataCollatorForSpanMasking gives
  spanbert_no_sbo       the same without the boundaries: its MLM loss alone
  spanbert_labels       the same model on the labels of transformers' collator alone
  stock_mlm             transformers' BertForMaskedLM on its DataCollatorForLanguageModeling
  stock_mlm_as_shipped  the same with the attention mask that a batch without padding does not need
  masked_only           a trainer in plain PyTorch that decodes masked rows only, MLM and SBO
  masked_only_no_sbo    the same on its MLM loss alone
  masked_only_labels    the same, which finds the rows in the labels of transformers' collator

Each in three modes: eager; layers, where every layer of the encoder is compiled by itself (of ours all but the
last, which computes only rows that are read); model, where torch.compile gets all of it.

All share one set of random weights, one optimizer and one attention implementation. Providers that compute the
same thing are compared on the same masks before anything is timed: loss and all gradients. With --device cuda
the collators, which run on the CPU, work before the clock starts, as in a DataLoader's worker.

Memory is the high-water mark of a step minus what is alive after it (weights, optimizer state); gradients count.
On CUDA one step of each is profiled: gpu_busy_ms, kernels, syncs (how often the host waits), the ten longest kernels.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from providers.steps import NAMES, SAME_LOSS, make_provider
from support.cli import add_measuring, check_measuring, checkpoint, make_parser, measure, name_list
from support.clock import Stopwatch, interleave, quantiles, ratios
from support.errors import Unavailable
from support.machine import commit, machine, versions
from support.memory import in_child, watch_cuda_memory
from support.plots import Bars, plot_bars
from support.rates import device_rates
from support.report import Progress, format_table
from support.step_problem import LAYERS, MODES
from support.step_runner import Contestant, Sizes, Trainer, child_peaks, graphs_compiled, profile_fields
from support.text import Shape

EXAMPLES = """examples:
  python benchmarks/bench_step.py --layers 2 --shape base-4x512 --json out.json
  python benchmarks/bench_step.py --device cuda --dtype bfloat16 --shape base-32x512 --json out.json
  python benchmarks/bench_step.py --device cuda --dtype bfloat16 --shape large-32x512 --modes eager,layers
  python benchmarks/bench_step.py --shape tiny --repeats 3                  (shows that it works)
"""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STOCK, MASKED_ONLY = "stock_mlm", "masked_only"
REFERENCES = [Contestant(name, mode) for name in (STOCK, MASKED_ONLY) for mode in MODES]
Samples = Mapping[Contestant, list[dict[str, float]]]


def entry(samples: Samples, contestant: Contestant, tokens: float) -> dict[str, Any]:
    """Time of a contestant, and its speed against stock transformers and masked-only PyTorch in each mode."""
    step_ms = quantiles([sample["full"] for sample in samples[contestant]])
    against = {
        f"{reference}": ratios(samples, reference, contestant)
        for reference in REFERENCES
        if reference in samples
    }
    return {"tokens_per_s": tokens / step_ms["p50"] * 1e3, "step_ms": step_ms, "speed_over": against}


def run(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """The whole benchmark; returns the report that --json writes."""
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    shape = Shape.parse(options.shape, options.vocab)
    sizes = Sizes(shape, options.layers or LAYERS[shape.hidden], dtype, options.backend)
    steps = options.steps or (5 if device.type == "cuda" else 1)
    described = machine(device)
    progress(
        f"{sizes.layers} layers, {shape} on {device}, {options.dtype}, {torch.get_num_threads()} threads"
    )
    trainer = Trainer(sizes, device, make_provider)
    tokens = trainer.masks.tokens
    names = list(options.providers)
    report: dict[str, Any] = {
        "benchmark": "bench_step",
        "machine": described,
        "rates": device_rates(device, dtype),
        "device": options.device,
        "shape": shape.name,
        "sizes": {
            "rows": shape.rows,
            "length": shape.length,
            "hidden": shape.hidden,
            "vocab": shape.vocab,
            "layers": sizes.layers,
            "tokens": tokens,
        },
        "dtype": options.dtype,
        "modes": options.modes,
        "backend": options.backend,
        "steps_per_sample": steps,
        "versions": versions(["transformers", "triton"]),
        "commit": commit(),
        "agreement": trainer.check([pair for pair in SAME_LOSS if set(pair) <= set(names)], progress),
        "rounds": 0,
        "entries": [],
        "unavailable": {},
    }
    if trainer.masks.padded and "stock_mlm_as_shipped" in names:
        names.remove("stock_mlm_as_shipped")
        report["unavailable"]["stock_mlm_as_shipped"] = "the same as stock_mlm where a batch is padded"
    if device.type != "cuda":
        report["unavailable"]["gpu_busy_ms, kernels, syncs"] = "of a profiled step on CUDA alone"
    known: dict[Contestant, dict[str, Any]] = {}

    def add(samples: Samples, rounds: int) -> None:
        times = {
            who: [{"full": sample["full"] / steps} for sample in found] for who, found in samples.items()
        }
        report["rounds"] = rounds
        report["entries"] = [
            {"provider": who.name, "mode": who.mode, **entry(times, who, tokens), **fields}
            for who, fields in known.items()
        ]
        checkpoint(options, report)

    watch = Stopwatch(device, launch_ahead=False)  # a step's launches are part of it
    first: dict[
        Contestant, list[dict[str, float]]
    ] = {}  # what there is if the run is stopped before the rounds
    compiling = 0.0
    for contestant in (Contestant(name, mode) for mode in MODES if mode in options.modes for name in names):
        if contestant.mode != "eager" and compiling > options.compile_seconds:
            report["unavailable"][str(contestant)] = (
                f"not compiled: the {options.compile_seconds:g} s for it were over"
            )
            continue
        begin = time.perf_counter()
        try:
            known[contestant] = {"first_step_s": trainer.warm_up(contestant)}
            trainer.task(contestant, steps)(-1, watch)
            first[contestant] = [watch.read()]
            add(first, rounds=0)
        except Unavailable as reason:
            report["unavailable"][str(contestant)] = str(reason)
            progress(f"{contestant} {reason}")
        seconds = time.perf_counter() - begin
        compiling += 0 if contestant.mode == "eager" else seconds
        progress(f"warmed up  {contestant} in {seconds:.1f} s")
    if not known:
        raise SystemExit(f"no provider can run here: {report['unavailable']}")

    graphs = graphs_compiled()
    samples = interleave(
        {contestant: trainer.task(contestant, steps) for contestant in known},
        watch,
        options.repeats,
        options.seconds,
        progress,
        after_round=add,
    )
    # A contestant that is compiled while it is timed is slower than it need be.
    report["graphs_compiled_while_timed"] = graphs_compiled() - graphs
    try:
        if device.type == "cuda":
            peaks = trainer.peaks(list(known), watch_cuda_memory(device), progress)
        else:
            eager = [contestant for contestant in known if contestant.mode == "eager"]
            if len(eager) < len(known):
                report["unavailable"]["peak_mb of compiled modes"] = "measured on CUDA alone"
            peaks = {}
            if eager:
                peaks = in_child(child_peaks, sizes, make_provider, eager, torch.get_num_threads())
    except Unavailable as reason:
        peaks = {}
        report["unavailable"]["peak_mb"] = str(reason)
    for contestant, fields in known.items():
        fields["peak_mb"] = peaks.get(contestant)
    for contestant, fields in known.items():  # last: a profiler may leave launches slower than they were
        try:
            fields |= profile_fields(trainer.profile(contestant))
        except ValueError as reason:
            report["unavailable"][f"profile of {contestant}"] = str(reason)
        add(samples, report["rounds"])
    return {**report, "complete": True}


def shown(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def summary(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    against = [str(reference) for reference in REFERENCES]
    against = [name for name in against if any(name in found["speed_over"] for found in report["entries"])]
    rows = []
    for found in report["entries"]:
        step = found["step_ms"]
        rows.append(
            [
                found["provider"],
                found["mode"],
                f"{found['tokens_per_s']:.0f}",
                f"{step['p50']:.2f}",
                f"{step['p20']:.2f} .. {step['p80']:.2f}",
                *(shown(found["speed_over"].get(name, {}).get("p50")) for name in against),
                shown(found.get("gpu_busy_ms")),
                shown(found.get("kernels"), 0),
                shown(found.get("syncs"), 0),
                shown(found["peak_mb"], 1),
            ]
        )
    header = ["provider", "mode", "tokens/s", "step ms", "p20 .. p80"]
    header += [f"against {name}" for name in against] + ["GPU busy ms", "kernels", "syncs", "peak MB"]
    lines = [
        f"{report['shape']}, {report['sizes']['layers']} layers, {report['dtype']}, torch.compile by "
        f"{report['backend']} on {report['machine'].get('gpu') or report['machine']['cpu']}, "
        f"{report['rounds']} rounds, {report['machine']['torch_threads']} CPU threads; copy "
        f"{report['rates']['copy_gb_s']:.0f} GB/s, GEMM {report['rates']['gemm_tflop_s']:.2f} TFLOP/s",
        format_table(header, rows),
    ]
    if report["graphs_compiled_while_timed"]:
        lines.append(f"{report['graphs_compiled_while_timed']} graphs were compiled while steps were timed")
    lines += [f"not measured: {name}: {reason}" for name, reason in report["unavailable"].items()]
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    processor = report["machine"].get("gpu") or report["machine"]["cpu"]
    title = f"Training step, {report['shape']}, {report['sizes']['layers']} layers, {report['dtype']}, {processor}"
    entries = {f"{found['provider']}, {found['mode']}": found for found in report["entries"]}
    times = {name: found["step_ms"] for name, found in entries.items()}
    peaks = {
        name: {"p50": found["peak_mb"]} for name, found in entries.items() if found["peak_mb"] is not None
    }
    plot_bars(path, title, [Bars("ms a step", times), Bars("peak MB", peaks)])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--shape",
        default="base-4x512",
        help="as for bench_sbo.py: width, rows, tokens a row (default %(default)s)",
    )
    parser.add_argument("--layers", type=int, help="of the encoder (default tiny 2, base 12, large 24)")
    parser.add_argument("--vocab", type=int, help="vocabulary size instead of 28996")
    parser.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        default="float32",
        help="bfloat16 is autocast over float32 parameters (default %(default)s)",
    )
    parser.add_argument(
        "--modes",
        type=name_list,
        metavar="MODES",
        help=f"comma-separated, from: {', '.join(MODES)} (default: all on CUDA, eager on the CPU)",
    )
    parser.add_argument("--backend", default="inductor", help="of torch.compile (default %(default)s)")
    parser.add_argument(
        "--compile-seconds",
        type=float,
        default=600,
        help="compile nothing more after this many seconds of compiling (default %(default)s)",
    )
    parser.add_argument("--steps", type=int, help="steps in one sample (default 1, on CUDA 5)")
    add_measuring(parser, NAMES, repeats=10, seconds=120)
    options = parser.parse_args(arguments)
    try:
        Shape.parse(options.shape, options.vocab)
    except ValueError as error:
        parser.error(str(error))
    for name in ("layers", "steps"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    options.modes = options.modes or (list(MODES) if options.device == "cuda" else ["eager"])
    for mode in options.modes:
        if mode not in MODES:
            parser.error(f"no mode {mode!r}; there are {', '.join(MODES)}")
    if options.backend not in torch.compiler.list_backends(exclude_tags=()):
        parser.error(f"no backend {options.backend!r} of torch.compile")
    check_measuring(parser, options, NAMES)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    return measure(parse(arguments), run, summary, plot)


if __name__ == "__main__":
    sys.exit(main())
