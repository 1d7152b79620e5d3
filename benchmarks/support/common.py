"""What every benchmark here shares: the machine's description, interleaved timing, JSON and plots.

Method. All contestants run in one process, in rounds that visit each of them once, and the visiting order
rotates from round to round; a speed-up is the median of the ratios taken inside the rounds, so that a machine
that slows down for a while slows everyone. Times are the 20th, 50th and 80th percentiles over the rounds, in
milliseconds.

CPU threads. torch's intra-op pool is what `--threads` or OMP_NUM_THREADS sets, else the number of cores; it
is in the JSON with the load of the machine. More threads than free cores, or another busy process, makes
OpenMP barriers wait and every figure worse, unevenly: look at `load_average` before you believe a run.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch

REPOSITORY = Path(__file__).resolve().parents[2]


class WrongResult(Exception):
    """A provider does not compute what it should: nothing is timed. Ends a benchmark with exit status 1."""


class Unavailable(Exception):
    """A contestant that cannot run here; the message is the reason that the report shows."""


class Progress:
    """Lines on stderr with the seconds since the start; `throttle`d lines come at most twice a second."""

    def __init__(self, quiet: bool = False) -> None:
        self.begin = time.perf_counter()
        self.last_line = 0.0
        self.quiet = quiet

    def __call__(self, text: str, throttle: bool = False) -> None:
        now = time.perf_counter()
        if self.quiet or (throttle and now - self.last_line < 0.5):
            return
        self.last_line = now
        print(f"[{now - self.begin:7.1f} s] {text}", file=sys.stderr, flush=True)


# ---- description of the run ----


def first_match(path: str, pattern: str) -> str | None:
    try:
        found = re.search(pattern, Path(path).read_text(), re.MULTILINE)
    except OSError:
        return None
    return found.group(1).strip() if found else None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were taken on."""
    described: dict[str, Any] = {
        "cpu": first_match("/proc/cpuinfo", r"^model name\s*:\s*(.*)$") or platform.processor(),
        "architecture": platform.machine(),
        "cores": cores(),
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(int(first_match("/proc/meminfo", r"^MemTotal:\s*(\d+)") or 0) * 1024 / 1e9, 1),
        "load_average": list(os.getloadavg()),
        "system": platform.platform(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described["gpu"] = properties.name
        described["gpu_memory_gb"] = round(properties.total_memory / 1e9, 1)
        described["cuda"] = torch.version.cuda
    return described


def device_name(described: Mapping[str, Any]) -> str:
    """A machine's folder below results/: `cpu-2core-avx512`, `nvidia-h200`. `described`: by `machine`."""
    name = described.get("gpu") or f"cpu-{described['cores']}core-{described['cpu_capability']}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Versions of Python, torch, spanbert_ext and `packages` (those that are installed)."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("spanbert_ext", *packages):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """What SPANBERT_EXT_COMMIT says: a copy of the tree on a machine for measuring has no history, or another's.

    Else the checked-out commit, with `-dirty` when tracked files other than results differ from it; None outside a
    checkout.
    """
    if named := os.environ.get("SPANBERT_EXT_COMMIT"):
        return named

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def available_bytes(device: torch.device) -> int:
    """Memory that a step could still take on `device`."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(first_match("/proc/meminfo", r"^MemAvailable:\s*(\d+)") or 2**33) * 1024


# ---- time ----

LAUNCH_AHEAD_CYCLES = 4_000_000  # of a clock near 2 GHz


class Stopwatch:
    """Milliseconds from `start` to each `mark`: CUDA events on a GPU, the performance counter on a CPU.

    On CUDA `start` first overwrites a buffer larger than the L2 cache, so that nobody finds inputs there. With
    `launch_ahead` the GPU then idles for about two milliseconds before the clock starts: launches of short work
    run ahead of it as they do behind an encoder, and what is timed is the GPU's part. Work that waits for the
    GPU loses that lead.
    """

    def __init__(self, device: torch.device, launch_ahead: bool = True) -> None:
        self.device = device
        self.launch_ahead = launch_ahead
        self.cuda = device.type == "cuda"
        self.flush = torch.empty(2**28, dtype=torch.uint8, device=device) if self.cuda else None
        self.marks: dict[str, Any] = {}

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def start(self) -> None:
        if self.flush is not None:
            self.flush.zero_()
            torch.cuda.synchronize(self.device)
            if self.launch_ahead:
                torch.cuda._sleep(LAUNCH_AHEAD_CYCLES)
        self.marks = {"": self._now()}

    def mark(self, name: str) -> None:
        self.marks[name] = self._now()

    def read(self) -> dict[str, float]:
        if self.cuda:
            torch.cuda.synchronize(self.device)
        marks = dict(self.marks)
        begin = marks.pop("")
        return {
            name: begin.elapsed_time(end) if self.cuda else (end - begin) * 1e3 for name, end in marks.items()
        }


@contextmanager
def no_collection() -> Iterator[None]:
    """Collects garbage now and none inside. What survives is frozen, so that the next call is quick."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


Task = Callable[[int, Stopwatch], None]
"""Takes the round's number, makes its inputs, then calls `start`, does the work and `mark`s the stopwatch."""


Name = TypeVar("Name", bound=Hashable)


def interleave(
    tasks: Mapping[Name, Task],
    watches: Stopwatch | Mapping[Name, Stopwatch],
    repeats: int,
    seconds: float,
    progress: Progress,
    after_round: Callable[[dict[Name, list[dict[str, float]]], int], None] | None = None,
) -> dict[Name, list[dict[str, float]]]:
    """Runs every task once a round, for `repeats` rounds or until `seconds` are over, but 3 rounds at least.

    Returns, per task and round, milliseconds by mark; round r of one task belongs to round r of another. `after_round`
    gets what there is of it and the number of rounds.
    """
    names = list(tasks)
    samples: dict[Name, list[dict[str, float]]] = {name: [] for name in names}
    begin = time.perf_counter()
    for round_ in range(repeats):
        if round_ >= 3 and time.perf_counter() - begin > seconds:
            progress(f"stopped after {round_} of {repeats} rounds: the {seconds:g} s are over")
            break
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            watch = watches if isinstance(watches, Stopwatch) else watches[name]
            with no_collection():  # a collection inside a step would be charged to whoever is running
                tasks[name](round_, watch)
                sample = watch.read()
            samples[name].append(sample)
            shown = ", ".join(f"{mark} {value:.2f} ms" for mark, value in sample.items())
            progress(f"round {round_ + 1}/{repeats}  {name}: {shown}", throttle=True)
        if after_round:
            after_round(samples, round_ + 1)
    return samples


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """20th, 50th and 80th percentile, linearly interpolated."""
    found = torch.tensor(values, dtype=torch.float64).quantile(
        torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    )
    return dict(zip(("p20", "p50", "p80"), found.tolist(), strict=True))


def _best_ms(device: torch.device, work: Callable[[], object], times: int = 5) -> float:
    watch = Stopwatch(device)
    found = []
    for _ in range(times + 1):  # the first is the warm-up
        watch.start()
        work()
        watch.mark("end")
        found.append(watch.read()["end"])
    return min(found[1:])


def gemm_tflop_s(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Rate of a product of two square matrices, measured now, best of five."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)
    return 2 * size**3 / _best_ms(device, lambda: torch.mm(left, right, out=product)) / 1e9


def multiplies_fast(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch multiplies matrices of `dtype` at least as fast as float32 there: on many CPUs it has no
    kernels for bfloat16 and takes a hundred times as long."""
    if device.type != "cpu" or dtype == torch.float32:
        return True
    return gemm_tflop_s(device, dtype, 256) >= gemm_tflop_s(device, torch.float32, 256)


def device_rates(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Copy bandwidth in GB/s (read plus written) and GEMM rate in TFLOP/s, measured now, best of five."""
    size, elements = (8192, 2**28) if device.type == "cuda" else (1024, 2**24)
    source = torch.randn(elements, device=device)
    target = torch.empty_like(source)
    return {
        "copy_gb_s": 2 * source.nbytes / _best_ms(device, lambda: target.copy_(source)) / 1e6,
        "gemm_tflop_s": gemm_tflop_s(device, dtype, size),
    }


# ---- reports ----


def ratios(
    samples: Mapping[Name, list[dict[str, float]]], name: Name, reference: Name, mark: str = "full"
) -> dict[str, float]:
    """Quantiles of `name`'s time over `reference`'s, taken round by round."""
    pairs = zip(samples[name], samples[reference], strict=True)
    return quantiles([mine[mark] / base[mark] for mine, base in pairs])


def check_outputs(*paths: Path | None) -> None:
    """Makes the folders of the files that a run will write. OSError now, not after minutes of measuring."""
    for path in paths:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            existed = path.exists()
            path.open("a").close()
            if not existed:
                path.unlink()  # a run that fails leaves no empty report


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """In one go: a program that is stopped leaves the old file or the new one."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(report, indent=2) + "\n")
    part.replace(path)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
