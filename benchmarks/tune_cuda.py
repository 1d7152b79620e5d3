# SPDX-License-Identifier: Apache-2.0
"""Chooses shapes, kernels and chunks of the heads on a GPU: every candidate once, within four minutes.

  rates   what the card does at best
  gemm    the decoder's three products in every shape in question, through both of CUDA's libraries
  ce      variants of the cross-entropy kernel                    (a build with SPANBERT_EXT_TUNING=ON)
  chunk   the whole vocab_ce at 256x512 by rows of a chunk        (likewise)
  head    forward and backward of the heads against their peers, kernel by kernel
  step    training steps, with and without attention_mask, eager and compiled, kernel by kernel

A line is a median with nothing in the cache, beside what a model of the card predicts, with the name of the kernel
that ran. The report is written anew after every line, so that a program that is stopped keeps what it has measured.
A part may take the time that the parts before it have left.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from providers.heads import BUILDERS
from support.cli import make_parser, name_list
from support.machine import commit, machine, versions
from support.report import Progress, check_outputs, write_json
from support.tuner.card import CARDS, Card, find_card
from support.tuner.gemm import gemm_lines, rates_lines
from support.tuner.rules import decide
from support.tuner.session import (
    HEADER,
    QUICK,
    Bench,
    Line,
    Sizes,
    describe,
    device_is_lost,
    measure_line,
)
from support.tuner.steps import head_lines, step_lines
from support.tuner.vocab_ce import ce_lines, chunk_lines

EXAMPLES = """examples:
  python benchmarks/tune_cuda.py --plan                             every line and its prediction, without a GPU
  python benchmarks/tune_cuda.py --output tune.json                 all of it, on the GPU
  python benchmarks/tune_cuda.py --parts rates,ce --limit 60 --output tune.json
  python benchmarks/tune_cuda.py --output tune.json --resume        what an interrupted run has left to do
  python benchmarks/tune_cuda.py --device cpu --quick               shows that it works
"""


def make_step_provider(*arguments: Any) -> Any:
    """`make_provider`, whose module imports transformers: a plan and the other parts do not need it."""
    from providers.steps import make_provider

    return make_provider(*arguments)


PARTS: dict[str, tuple[float, Callable[[Sizes, Card], list[Line]]]] = {
    "rates": (8, rates_lines),
    "gemm": (70, gemm_lines),
    "ce": (30, ce_lines),
    "chunk": (25, chunk_lines),
    "head": (40, lambda sizes, _: head_lines(BUILDERS, sizes)),
    "step": (60, lambda sizes, _: step_lines(make_step_provider, sizes)),
}
"""Seconds and lines."""

Report = dict[str, Any]


def plan(options: argparse.Namespace, sizes: Sizes, card: Card) -> str:
    """Every line with its predicted time, and how long the parts take."""
    lines = [f"{'part':6} {'line':52} {'predicted us':>12} {'seconds':>8}"]
    total = 0.0
    for part in options.parts:
        limit, make = PARTS[part]
        planned = make(sizes, card)
        seconds = sum(line.seconds for line in planned)
        total += min(seconds, limit)
        lines += [
            f"{part:6} {line.name:52} {line.predicted_us:12.1f} {line.seconds:8.1f}" for line in planned
        ]
        cut = ": the last lines only if earlier parts leave time" if seconds > limit else ""
        lines.append(f"{part:6} {len(planned)} lines, about {seconds:.0f} s of {limit} s{cut}\n")
    return "\n".join([*lines, f"{card.name}: about {total:.0f} s of {options.limit:g} s"])


def new_report(options: argparse.Namespace, card: Card, device: torch.device) -> Report:
    return {
        "benchmark": "tune_cuda",
        "machine": machine(device),
        "versions": versions(["transformers", "triton"]),
        "commit": commit(),
        "card": vars(card),
        "quick": options.quick,
        "lines": [],
        "decisions": {},
    }


def restart(options: argparse.Namespace, seconds: float) -> list[str]:
    """The command that measures what is left, in a process with a CUDA context of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--resume", "--output", str(options.output)]
    command += ["--device", options.device, "--parts", ",".join(options.parts), "--limit", f"{seconds:.0f}"]
    return command + (["--quick"] if options.quick else [])


def run(options: argparse.Namespace, progress: Progress) -> Report:
    """Measures; returns the report, which --output holds too."""
    begin = time.perf_counter()
    device = torch.device(options.device)
    sizes = QUICK if options.quick else Sizes()
    card = find_card(torch.cuda.get_device_name(device)) if device.type == "cuda" else CARDS[options.card]
    report = new_report(options, card, device)
    if options.resume and options.output.exists():
        report["lines"] = json.loads(options.output.read_text())["lines"]
    done = {(line["part"], line["name"]) for line in report["lines"]}
    bench = Bench(device, sizes, progress)
    progress(f"{card.name}, {', '.join(options.parts)}, at most {options.limit:g} s")
    print(HEADER, flush=True)

    for i, part in enumerate(options.parts):
        limit, make = PARTS[part]
        later = sum(PARTS[name][0] for name in options.parts[i + 1 :])
        left = options.limit - (time.perf_counter() - begin)
        # What earlier parts have left over is added; where --limit is short, every part gives its share.
        end = time.perf_counter() + (
            left - later if left >= later + limit else left * limit / (limit + later)
        )
        for line in make(sizes, card):
            if (part, line.name) in done:
                continue
            found = measure_line(line, bench, end - time.perf_counter())
            report["lines"].append(found)
            report["decisions"] = decide(report["lines"], sizes)
            print(describe(found), flush=True)
            if options.output:
                write_json(options.output, report)
            if "error" in found and device_is_lost(device):
                remaining = options.limit - (time.perf_counter() - begin)
                progress(f"{line.name}: {found['error']}; CUDA is lost to this process")
                if options.output and remaining > 10:
                    sys.stdout.flush()
                    command = restart(options, remaining)
                    os.execv(command[0], command)
                return report
        bench.forget()
    return report


def summary(report: Report) -> str:
    """Profiles and decisions, for people; the lines were printed as they were measured."""
    tables = [
        f"{line['part']} {line['name']}: {line['table']}" for line in report["lines"] if "table" in line
    ]
    verdicts = [f"{name:14} {verdict}" for name, verdict in report["decisions"].items()]
    return "\n\n".join([*tables, "\n".join(["decisions", *verdicts])])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--plan", action="store_true", help="print what would be measured, and measure nothing"
    )
    parser.add_argument(
        "--parts",
        type=name_list,
        default=list(PARTS),
        metavar="NAMES",
        help=f"comma-separated, from: {', '.join(PARTS)} (default all)",
    )
    parser.add_argument(
        "--limit", type=float, default=240, help="seconds for all parts (default %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the report, JSON, whole after every line"
    )
    parser.add_argument("--resume", action="store_true", help="keep the lines that --output holds already")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="default %(default)s")
    parser.add_argument(
        "--card",
        choices=tuple(CARDS),
        default="h200",
        help="whose predictions without a GPU (default %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    options = parser.parse_args(arguments)
    for name in options.parts:
        if name not in PARTS:
            parser.error(f"no part {name!r}; there are {', '.join(PARTS)}")
    if options.limit <= 0:
        parser.error("--limit must be above 0")
    if options.resume and not options.output:
        parser.error("--resume needs --output")
    if options.device == "cuda" and not options.plan and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device; --plan and --device cpu --quick need none")
    try:
        check_outputs(options.output)
    except OSError as error:
        parser.error(f"cannot write there: {error}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.plan:
        print(plan(options, QUICK if options.quick else Sizes(), CARDS[options.card]))
        return 0
    print(summary(run(options, Progress())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
