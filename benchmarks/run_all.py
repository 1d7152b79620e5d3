# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks that this machine can run; writes a folder of JSON files, plots and one Markdown page.

The folder is benchmarks/results/<device>, with --quick build/benchmarks-quick/<device>. Reports that are there
already are kept: the run is refused before it measures anything, unless --overwrite says otherwise. What a benchmark
that was stopped had measured by then is kept too, marked as not complete. The page, README.md, is made anew from all
reports of the folder.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from support.cli import make_parser, name_list
from support.machine import REPOSITORY, device_name, machine
from support.rates import multiplies_fast
from support.report import Progress
from support.tables import MARK, page

EXAMPLES = """examples:
  python benchmarks/run_all.py                              everything, on the GPU if there is one
  python benchmarks/run_all.py --parts head,step --overwrite
  python benchmarks/run_all.py --quick                      tiny shapes: shows that all of it works
  python benchmarks/run_all.py --parts head --budget 540    starts nothing that the time does not allow
"""
PARTS = ("head", "masking", "step", "growth", "prepare")


@dataclass(frozen=True)
class Job:
    """One benchmark; `name` is its report's file name without the suffix."""

    part: str
    script: str
    name: str
    arguments: tuple[str, ...]


def head(shape: str, dtype: str, *options: str) -> Job:
    return Job(
        "head", "bench_sbo.py", f"bench_sbo-{shape}-{dtype}", ("--shape", shape, "--dtype", dtype, *options)
    )


def masking(*options: str) -> Job:
    return Job("masking", "bench_span_mask.py", "bench_span_mask", options)


def step(shape: str, dtype: str, *options: str, suffix: str = "") -> Job:
    name = f"bench_step-{shape}-{dtype}{suffix}"
    return Job("step", "bench_step.py", name, ("--shape", shape, "--dtype", dtype, *options))


def growth(dtype: str, *options: str) -> Job:
    return Job("growth", "bench_growth.py", f"bench_growth-{dtype}", ("--dtype", dtype, *options))


def prepare(*options: str) -> Job:
    return Job("prepare", "bench_prepare.py", "bench_prepare", options)


def quick_plan() -> list[Job]:
    few = ("--repeats", "3", "--threads", "1")  # a thread more only waits, and long on a busy machine
    providers = ("--providers", "fused,eager_masked,hf_all_positions")
    compiled = ("--modes", "eager,layers,model", "--backend", "eager")
    modes = (*compiled, "--providers", "spanbert,stock_mlm,masked_only")
    axes = ("--width", "tiny", "--rows", "1,2", "--vocab", "257,514", "--length", "16,32", "--base", "2,32")
    return [
        head("tiny", "float32", "--vocab", "both", *few, *providers),
        masking("--rows", "8", "--length", "64", "--vocab", "257", *few),
        step("tiny", "float32", *few),
        step("tiny", "float32", *few, *modes, suffix="-modes"),
        growth("float32", *axes, *few, "--providers", "fused,eager_masked"),
        prepare("--megabytes", "1", "--workers", "1,2", "--line", "1", "--vocab-size", "500"),
    ]


def cpu_plan() -> list[Job]:
    # A step in bfloat16 is minutes long where torch multiplies it without the processor's help.
    fast_bfloat16 = multiplies_fast(torch.device("cpu"), torch.bfloat16)
    small = "fused,eager_masked,eager_masked_bfloat16,torch_linear_ce_best,hf_all_positions"
    return [
        head("base-8x512", "float32", "--vocab", "both"),
        head("base-8x512", "bfloat16"),
        head("large-8x512", "float32", "--providers", small),
        head("base-32x512", "float32", "--providers", "fused,eager_masked,torch_linear_ce_best"),
        head("base-32x512-ragged", "float32", "--providers", "fused,eager_masked,torch_linear_ce_best"),
        masking(),
        step("base-4x512", "float32", "--layers", "2", suffix="-2layers"),
        *([step("base-4x512", "bfloat16", "--layers", "2", suffix="-2layers")] if fast_bfloat16 else []),
        growth("float32"),
        prepare(),
    ]


def cuda_plan() -> list[Job]:
    short = ("--seconds", "8")
    one = (*short, "--vocab", "28996")
    few = ("--modes", "eager,layers", "--providers", "spanbert,stock_mlm,masked_only", "--seconds", "20")
    return [
        head("base-32x512", "bfloat16", *short),
        head("base-256x512", "bfloat16", *short),
        head("large-32x512", "bfloat16", *one),
        head("base-32x512-ragged", "bfloat16", *one),
        head("large-256x512", "bfloat16", *one),
        head("base-8x512", "bfloat16", *one),
        head("large-8x512", "bfloat16", *one),
        masking("--seconds", "20"),
        step("base-32x512", "bfloat16", "--seconds", "45", "--compile-seconds", "90"),
        step("large-32x512", "bfloat16", *few),
        step("base-128x512", "bfloat16", *few),
        growth("bfloat16", "--rows", "8,16,32,64,128,256", "--base", "32,512", "--seconds", "3"),
        prepare("--megabytes", "32,128", "--line", "32"),
    ]


def run_job(job: Job, device: str, scratch: Path, log: Path | None, limit: float) -> str | None:
    """Measures into `scratch`; returns why there is no report, or None."""
    command = [
        sys.executable,
        str(REPOSITORY / "benchmarks" / job.script),
        "--device",
        device,
        *job.arguments,
    ]
    command += ["--json", str(scratch / f"{job.name}.json")]
    if find_spec("matplotlib"):
        command += ["--plot", str(scratch / f"{job.name}.png")]
    stream = log.open("a") if log else None
    try:
        # a session of its own: a benchmark that is stopped takes its child for peak memory along
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT if stream else None, start_new_session=True
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    finally:
        if stream:
            stream.close()
    return None if status == 0 else f"exit status {status}"


def keep(job: Job, scratch: Path, output: Path, progress: Progress) -> None:
    """Moves the report, complete or not, and its plot; a plot of an earlier report does not stay beside it."""
    if not (scratch / f"{job.name}.json").exists():
        return
    for suffix in (".json", ".png"):
        made, target = scratch / f"{job.name}{suffix}", output / f"{job.name}{suffix}"
        if made.exists():
            progress(f"{'replaced' if target.exists() else 'wrote'}  {target}")
            made.replace(target)
        else:
            target.unlink(missing_ok=True)


def refuse_to_overwrite(
    parser: argparse.ArgumentParser, folder: Path, jobs: Sequence[Job], allowed: bool
) -> None:
    there = [f"{job.name}.json" for job in jobs if (folder / f"{job.name}.json").exists()]
    if there and not allowed:
        parser.error(f"{folder} has {', '.join(there)} already; --overwrite replaces them")
    readme = folder / "README.md"
    if readme.exists() and not readme.read_text().startswith(MARK):
        parser.error(f"{readme} was not written by this program; move it away")


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[Job]]:
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: cuda where there is one, else cpu"
    )
    parser.add_argument(
        "--parts", type=name_list, default=list(PARTS), help=f"from {', '.join(PARTS)} (default all)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny shapes, a minute: no figures worth keeping"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace reports that are there already")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="in place of the folder named above")
    parser.add_argument("--log", type=Path, metavar="FILE", help="what the benchmarks print goes there")
    parser.add_argument(
        "--timeout", type=float, default=1800, help="seconds a benchmark (default %(default)s)"
    )
    parser.add_argument(
        "--budget", type=float, default=float("inf"), help="seconds altogether (default: no end)"
    )
    parser.add_argument("--list", action="store_true", help="say what would run, and end")
    options = parser.parse_args(arguments)
    for part in options.parts:
        if part not in PARTS:
            parser.error(f"no part {part!r}; there are {', '.join(PARTS)}")
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device")
    plan = quick_plan() if options.quick else cpu_plan() if options.device == "cpu" else cuda_plan()
    jobs = [job for job in plan if job.part in options.parts]
    parent = REPOSITORY / ("build/benchmarks-quick" if options.quick else "benchmarks/results")
    options.output = options.output or parent / device_name(machine(torch.device(options.device)))
    if not options.list:
        refuse_to_overwrite(parser, options.output, jobs, options.overwrite)
    return options, jobs


def main(arguments: Sequence[str] | None = None) -> int:
    options, jobs = parse(arguments)
    if options.list:
        for job in jobs:
            print(
                f"{options.output / job.name}.json: {job.script} --device {options.device} {' '.join(job.arguments)}"
            )
        return 0
    progress, begin = Progress(), time.perf_counter()
    options.output.mkdir(parents=True, exist_ok=True)
    failed = []
    with tempfile.TemporaryDirectory(dir=options.output, prefix=".measuring-") as scratch:
        for number, job in enumerate(jobs, 1):
            limit = min(options.timeout, options.budget - (time.perf_counter() - begin))
            progress(f"{number}/{len(jobs)}  {job.name}")
            reason = "not started: the budget is used up"
            if limit > 0:
                reason = run_job(job, options.device, Path(scratch), options.log, limit)
            if reason:
                failed.append(job.name)
                progress(f"{job.name}: {reason}")
            keep(job, Path(scratch), options.output, progress)
    readme = options.output / "README.md"
    readme.write_text(page(options.output))
    progress(f"wrote  {readme} from {len(list(options.output.glob('*.json')))} reports")
    if failed:
        print(f"no complete report of {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
