# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of spanbert-prepare, and how both grow: with the text, with the processes, with a single line.

  text     megabytes of text, in documents as they come
  workers  processes, at the base size
  line     megabytes of text in one line

The text is Python's manual, over and over, or that of --text. Each point is a process of its own; the seconds are
without its imports, the memory is that of all processes, with them. The shards of all numbers of processes are
compared before anything is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

from spanbert_ext.pretrain.rows.tokenizer import train_tokenizer
from spanbert_ext.pretrain.text.builtin_corpus import builtin_documents
from spanbert_ext.pretrain.text.text_files import read_documents
from support.cli import check_measuring, checkpoint, make_parser, measure
from support.errors import WrongResult
from support.machine import commit, cores, machine, versions
from support.plots import Lines, plot_lines
from support.process_memory import run_watched
from support.rates import device_rates
from support.report import Progress

EXAMPLES = """examples:
  python benchmarks/bench_prepare.py --json prepare.json --plot prepare.png
  python benchmarks/bench_prepare.py --text wiki.txt.xz --megabytes 130 --line 1000
"""
AXES = {"text": "MB of text", "workers": "processes", "line": "MB in one line"}
CHILD = """import json, sys, time
from spanbert_ext.pretrain.prepare.prepare import PrepareOptions, prepare
begin = time.perf_counter()
manifest = prepare(PrepareOptions(progress=False, documents_per_shard=500, **json.loads(sys.argv[1])))
print(json.dumps({"seconds": time.perf_counter() - begin, **manifest["counts"], "name": manifest["fingerprint"]}))
"""


def documents(options: argparse.Namespace) -> list[str]:
    """What the text is made of."""
    if options.text:
        return [text for path in options.text for text in read_documents(path)]
    return [text for _, text in builtin_documents()]


def write_text(path: Path, megabytes: int, texts: list[str], one_line: bool) -> None:
    found = cycle(texts)
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < megabytes * 1e6:
            text = next(found)
            file.write(text.replace("\n", " ") + " " if one_line else text + "\n\n")


def run_point(path: Path, workers: int, scratch: Path) -> dict[str, Any]:
    given = {
        "corpus": [str(path)],
        "output": str(scratch / f"{path.stem}-{workers}"),
        "tokenizer": str(scratch / "tokenizer"),
        "workers": workers,
    }
    printed, peak = run_watched([sys.executable, "-c", CHILD, json.dumps(given)])
    found = json.loads(printed.splitlines()[-1])
    return {
        "sizes": {"text": found["text_bytes"] / 1e6, "workers": workers, "line": found["text_bytes"] / 1e6},
        "seconds": found["seconds"],
        "mb_s": found["text_bytes"] / 1e6 / found["seconds"],
        "tokens_s": found["tokens"] / found["seconds"],
        "peak_mb": peak,
        "shards": found["name"],
    }


def run(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """The whole benchmark; returns the report that --json writes."""
    device = torch.device("cpu")
    report: dict[str, Any] = {
        "benchmark": "bench_prepare",
        "text": ", ".join(path.name for path in options.text)
        if options.text
        else "Python's manual, repeated",
        "machine": machine(device),
        "rates": device_rates(device, torch.float32),
        "versions": versions(("datasets", "tokenizers", "transformers")),
        "commit": commit(),
        "axes": {},
    }
    base = options.megabytes[-1]
    points = {
        "text": [(size, options.workers[-1], False) for size in options.megabytes],
        "workers": [(base, workers, False) for workers in options.workers],
        "line": [(size, options.workers[-1], True) for size in options.line],
    }
    measured: dict[tuple[int, int, bool], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        texts = documents(options)
        train_tokenizer(lambda: texts[:300], options.vocab_size).save_pretrained(scratch / "tokenizer")
        for axis, wanted in points.items():
            report["axes"][axis] = []
            for size, workers, one_line in wanted:
                path = scratch / f"{'line' if one_line else 'text'}{size}.txt"
                if not path.exists():
                    write_text(path, size, texts, one_line)
                if (size, workers, one_line) not in measured:
                    progress(f"{axis}: {size} MB{' in one line' if one_line else ''}, {workers} processes")
                    measured[size, workers, one_line] = run_point(path, workers, scratch)
                report["axes"][axis].append(measured[size, workers, one_line])
                checkpoint(options, report)
    if len({point["shards"] for point in report["axes"]["workers"]}) != 1:
        raise WrongResult("the shards depend on the number of processes")
    return report


def summary(report: dict[str, Any]) -> str:
    return "\n".join(
        f"{AXES[axis]} {point['sizes'][axis]:.0f}: {point['seconds']:.1f} s, {point['mb_s']:.2f} MB/s,"
        f" {point['tokens_s']:,.0f} tokens/s, {point['peak_mb'] or 0:.0f} MB"
        for axis, points in report["axes"].items()
        for point in points
    )


def plot(report: dict[str, Any], path: Path) -> None:
    def panel(axis: str, label: str, key: str) -> Lines:
        points = [(round(point["sizes"][axis]), point[key] or 0) for point in report["axes"][axis]]
        return Lines(AXES[axis], label, {"spanbert-prepare": points}, from_zero=True)

    title = f"spanbert-prepare, {report['text']}, {report['machine']['cpu']}"
    rows = [("seconds", "seconds"), ("peak MB", "peak_mb")]
    plot_lines(path, title, [[panel(axis, label, key) for axis in AXES] for label, key in rows])


def numbers(text: str) -> list[int]:
    found = [int(part) for part in text.split(",")]
    if min(found) < 1:
        raise ValueError
    return found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu", help="has no influence")
    add("--text", nargs="+", type=Path, metavar="FILE", help="text in the place of Python's manual")
    add("--megabytes", type=numbers, default=[16, 32, 64, 128], help="default 16,32,64,128")
    add(
        "--workers",
        type=numbers,
        default=sorted({1, cores()}),
        help="the last is that of the other axes (default: 1 and the cores)",
    )
    add("--line", type=numbers, default=[16, 128], help="default 16,128")
    add("--vocab-size", type=int, default=8_000, help="of the tokenizer (default %(default)s)")
    add("--scratch", type=Path, metavar="DIR", help="where the text and the shards go (default: /tmp)")
    add("--json", type=Path, metavar="FILE", help="write the report there")
    add("--plot", type=Path, metavar="FILE", help="write a PNG there")
    options = parser.parse_args(arguments)
    fixed = {"providers": [], "repeats": 1, "threads": None}
    check_measuring(parser, argparse.Namespace(**{**vars(options), "device": "cpu", **fixed}), [])
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        return measure(parse(arguments), run, summary, plot)
    except subprocess.CalledProcessError as error:
        print(f"spanbert-prepare ended with exit status {error.returncode}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
