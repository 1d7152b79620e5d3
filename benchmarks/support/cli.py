# SPDX-License-Identifier: Apache-2.0
"""The command line that the benchmarks share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from support.errors import WrongResult
from support.report import Progress, check_outputs, write_json


def make_parser(description: str | None, examples: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def name_list(text: str) -> list[str]:
    return text.split(",")


def add_measuring(
    parser: argparse.ArgumentParser,
    providers: Sequence[str],
    repeats: int,
    seconds: float,
    threads: int | None = None,
    chosen: Sequence[str] | None = None,
) -> None:
    """Options on where, what and how long to measure, and where the report goes. The numbers are defaults."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default %(default)s")
    parser.add_argument(
        "--providers",
        type=name_list,
        default=list(chosen or providers),
        metavar="NAMES",
        help=f"comma-separated, from: {', '.join(providers)} (default {','.join(chosen) if chosen else 'all'})",
    )
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds at most (default %(default)s)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=seconds,
        help="start no round after this many, from the fourth (default %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=threads,
        help="CPU threads of torch (default: %(default)s; None: OMP_NUM_THREADS, else the cores)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a PNG there")


def check_measuring(
    parser: argparse.ArgumentParser, options: argparse.Namespace, providers: Sequence[str]
) -> None:
    """Ends the program with a message when an option cannot be met; then sets the threads."""
    for name in options.providers:
        if name not in providers:
            parser.error(f"no provider {name!r}; there are {', '.join(providers)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device")
    if options.repeats < 1:
        parser.error("--repeats must be at least 1")
    if options.plot and not find_spec("matplotlib"):
        parser.error("--plot needs matplotlib: pip install matplotlib")
    try:
        check_outputs(options.json, options.plot)
    except OSError as error:
        parser.error(f"cannot write there: {error}")
    if options.threads:
        torch.set_num_threads(options.threads)


def checkpoint(options: argparse.Namespace, report: dict[str, Any]) -> None:
    """Writes what there is of a report to --json, so that a run that is stopped keeps it; marked as not complete."""
    if options.json:
        write_json(options.json, {**report, "complete": False})


def measure(
    options: argparse.Namespace,
    run: Callable[[argparse.Namespace, Progress], dict[str, Any]],
    summary: Callable[[dict[str, Any]], str],
    plot: Callable[[dict[str, Any], Path], None],
) -> int:
    """Runs a benchmark, prints its table and writes what --json and --plot ask for. Returns the exit status."""
    try:
        report = run(options, Progress())
    except WrongResult as error:
        print(error, file=sys.stderr)
        return 1
    print(summary(report))
    if options.json:
        write_json(options.json, report)
    if options.plot:
        plot(report, options.plot)
    return 0
