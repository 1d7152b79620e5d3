# SPDX-License-Identifier: Apache-2.0
"""How the cost of the span pre-training loss grows: time and memory of bench_sbo.py along three axes.

  rows     batch rows of the base length
  vocab    vocabulary sizes at the base batch
  length   tokens a row at the base number of rows

Each shape is a run of bench_sbo.py with its check against float64.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench_sbo
from providers.heads import BUILDERS
from support.cli import add_measuring, check_measuring, make_parser, measure
from support.plots import Lines, plot_lines
from support.report import Progress
from support.text import Shape

EXAMPLES = """examples:
  python benchmarks/bench_growth.py --json growth.json --plot growth.png
  python benchmarks/bench_growth.py --device cuda --dtype bfloat16 --rows 8,16,32,64,128,256
  python benchmarks/bench_growth.py --width tiny --rows 1,2 --vocab 257,514 --length 16,32 --repeats 3
"""
PROVIDERS = ("fused", "eager_masked", "hf_all_positions")
KEPT = ("machine", "rates", "device", "dtype", "versions", "commit")
AXES = {"rows": "batch rows", "vocab": "vocabulary size", "length": "tokens a row"}


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def points(options: argparse.Namespace) -> dict[str, list[Shape]]:
    """The shapes of each axis. ValueError for one that is impossible."""

    def shape(rows: int, length: int, vocab: int | None = None) -> Shape:
        return Shape.parse(f"{options.width}-{rows}x{length}", vocab)

    rows, length = options.base
    return {
        "rows": [shape(value, length) for value in options.rows],
        "vocab": [shape(rows, length, value) for value in options.vocab],
        "length": [shape(rows, value) for value in options.length],
    }


def run(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """The whole benchmark; returns the report that --json writes."""
    report: dict[str, Any] = {"benchmark": "bench_growth", "width": options.width, "base": options.base}
    axes: dict[str, list[dict[str, Any]]] = {}
    measured: dict[Shape, dict[str, Any]] = {}  # the base shape lies on every axis
    for axis, shapes in points(options).items():
        axes[axis] = []
        for shape in shapes:
            if shape not in measured:
                progress(f"{axis}: {shape.name}, vocabulary {shape.vocab}")
                chosen = {"shape": shape.name, "vocab": shape.vocab, "json": None}
                one = bench_sbo.run(argparse.Namespace(**{**vars(options), **chosen}), progress)
                measured[shape] = {**one, **one["runs"][0]}
            found = measured[shape]
            report |= {key: found[key] for key in KEPT if key not in report}
            axes[axis].append(
                {
                    "sizes": found["sizes"],
                    "providers": {
                        name: {key: entry[key] for key in ("full_ms", "peak_mb")}
                        for name, entry in found["providers"].items()
                    },
                    "gemm_floor_ms": found["gemm_floor"]["full_ms"],
                    "unavailable": found["unavailable"],
                }
            )
    return {**report, "axes": axes}


def summary(report: dict[str, Any]) -> str:
    lines = []
    for axis, found in report["axes"].items():
        for point in found:
            costs = ", ".join(
                f"{name} {entry['full_ms']['p50']:.2f} ms {entry['peak_mb'] or 0:.1f} MB"
                for name, entry in point["providers"].items()
            )
            lines.append(f"{AXES[axis]} {point['sizes'][axis]}: {costs}")
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    processor = report["machine"].get("gpu") or report["machine"]["cpu"]
    rows, length = report["base"]
    title = f"MLM + SBO loss, {report['width']} around {rows}x{length}, {report['dtype']}, {processor}"

    def panel(axis: str, label: str, memory: bool) -> Lines:
        lines: dict[str, list[tuple[float, float]]] = {}
        for point in report["axes"][axis]:
            for name, entry in point["providers"].items():
                value = entry["peak_mb"] if memory else entry["full_ms"]["p50"]
                lines.setdefault(name, []).append((point["sizes"][axis], value or 0))
        return Lines(AXES[axis], label, lines)

    plot_lines(
        path,
        title,
        [[panel(axis, "ms", False) for axis in AXES], [panel(axis, "peak MB", True) for axis in AXES]],
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--width", choices=("tiny", "base", "large"), default="base", help="default %(default)s"
    )
    parser.add_argument("--rows", type=numbers, default=[1, 2, 4, 8, 16], help="default 1,2,4,8,16")
    parser.add_argument(
        "--vocab", type=numbers, default=[8192, 16384, 28996, 50265, 119547], help="default 8192 ... 119547"
    )
    parser.add_argument("--length", type=numbers, default=[64, 128, 256, 512], help="default 64,128,256,512")
    parser.add_argument(
        "--base",
        type=numbers,
        default=[4, 512],
        metavar="ROWS,LENGTH",
        help="the other axes' size (default 4,512)",
    )
    parser.add_argument(
        "--dtype", choices=tuple(bench_sbo.DTYPES), default="float32", help="default %(default)s"
    )
    add_measuring(parser, list(BUILDERS), repeats=5, seconds=20, chosen=PROVIDERS)
    options = parser.parse_args(arguments)
    if len(options.base) != 2:
        parser.error("--base takes two numbers: rows and tokens a row")
    try:
        points(options)
    except ValueError as error:
        parser.error(str(error))
    check_measuring(parser, options, list(BUILDERS))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    return measure(parse(arguments), run, summary, plot)


if __name__ == "__main__":
    sys.exit(main())
