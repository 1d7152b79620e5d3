# SPDX-License-Identifier: Apache-2.0
"""How tune_cuda.py measures: lines in parts with limits, and a report that is whole after every line."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from support.clock import Stopwatch, no_collection
from support.errors import Unavailable
from support.profiling import profile_step
from support.report import Progress

WARM_UPS = 3
AGAIN_S = 1.0  # between the attempts to stop a line
KERNEL_SHARE = 0.05  # of a line's time: kernels below it are not named


@dataclass(frozen=True)
class Sizes:
    """Full sizes or tiny ones with the same names. `vocab` is odd, `padded` are the vocabularies that are not."""

    vocab: int = 28_996
    padded: tuple[int, ...] = (29_000, 29_056)
    width: int = 768
    padded_widths: tuple[int, ...] = (776, 832)  # with two columns for each head's bias
    large_width: int = 1024
    large_padded_width: int = 1088
    rows: tuple[int, ...] = (4928, 4992, 5120)  # of products at base 32x512; the middle one is what is used
    small_rows: tuple[int, ...] = (640, 1280)
    many_rows: int = 11_264
    decoded_rows: tuple[int, ...] = (4992, 39_424)  # at base 32x512 and 256x512
    chunks: tuple[int, ...] = (5632, 7936, 9856, 11_264, 39_424)
    square: int = 8192
    copied: int = 2**28  # float32 elements
    shape: str = "base-32x512"
    layers: int = 12
    checked_rows: int = 64
    repeats: int = 20

    @property
    def usual_rows(self) -> int:
        return self.rows[1]


QUICK = Sizes(
    vocab=257,
    padded=(264, 384),
    width=32,
    padded_widths=(40, 64),
    large_width=48,
    large_padded_width=64,
    rows=(24, 32, 40),
    small_rows=(8, 16),
    many_rows=48,
    decoded_rows=(24, 300),
    chunks=(128, 256, 384),
    square=64,
    copied=2**12,
    shape="tiny",
    layers=2,
    checked_rows=8,
    repeats=3,
)


class Overrun(BaseException):
    """The part's time is over. No Exception: torch.compile would wrap it as a failure of its own."""


@dataclass(frozen=True)
class Line:
    """One measurement. `measure` returns `measured_us` and what else the report should hold."""

    part: str
    name: str  # unique within the part
    key: Mapping[str, Any]  # what the rules find it by
    predicted_us: float
    measure: Callable[[Bench], dict[str, Any]]
    amount: float = 0.0  # FLOP or bytes
    unit: str = ""  # TFLOP/s or TB/s
    seconds: float = 0.3  # about how long it takes, all told


@dataclass
class Bench:
    """Where and how lines are measured."""

    device: torch.device
    sizes: Sizes
    progress: Progress
    kept: tuple[Any, Any] = (None, None)  # one object that several lines share, and its key
    watch: Stopwatch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Stopwatch(self.device)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def share(self, key: object, make: Callable[[], Any]) -> Any:
        """What `make` returned when it was last asked for by this key; one thing is kept at a time."""
        if self.kept[0] != key:
            self.kept = (None, None)  # frees its memory first
            self.kept = (key, make())
        return self.kept[1]

    def forget(self) -> None:
        self.kept = (None, None)
        if self.cuda:
            torch.cuda.empty_cache()

    def time(self, work: Callable[[], object], reset: Callable[[], object] | None = None) -> dict[str, Any]:
        """Median and the 20th and 80th percentile of runs that find nothing in the cache, and the kernels' names.

        `reset` restores inputs before each run, untimed.
        """
        prepare = reset or (lambda: None)
        for _ in range(WARM_UPS):
            prepare()
            work()
        times = []
        with no_collection():
            for _ in range(self.sizes.repeats):
                prepare()
                self.watch.start()
                work()
                self.watch.mark("end")
                times.append(self.watch.read()["end"] * 1e3)
        times.sort()
        fifth = len(times) // 5
        measured = {
            "measured_us": statistics.median(times),
            "p20_us": times[fifth],
            "p80_us": times[-1 - fifth],
        }
        if self.cuda:
            prepare()
            try:
                measured["kernel"] = kernel_names(profile_step(work).longest)
            except Exception as error:  # a profiler that does not work here costs the name alone
                measured["profile_error"] = f"{type(error).__name__}: {error}"
        return measured

    def kernel_us(self, part: str, work: Callable[[], object], reset: Callable[[], object]) -> float | None:
        """Mean time of the kernel whose name holds `part`, for work that launches small ones beside it.

        None without a GPU, or where no such kernel is found.
        """
        if self.watch.flush is None:
            return None

        def rounds() -> None:
            for _ in range(self.sizes.repeats):
                reset()
                self.watch.flush.zero_()
                work()

        try:
            kernels = profile_step(rounds).longest
        except Exception:  # a profiler that does not work here: the whole work's time is all there is
            return None
        return next((us / calls for name, calls, us in kernels if part in name), None)


def kernel_names(kernels: Sequence[tuple[str, int, float]]) -> str:
    """Names of those that take a share worth naming, the longest first."""
    total = sum(us for _, _, us in kernels)
    return " + ".join(name for name, _, us in kernels if us >= KERNEL_SHARE * total)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises Overrun inside after so many seconds, again every second: Python ignores one that hits a destructor."""
    inside = True

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if inside:
            raise Overrun

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001), AGAIN_S)
    try:
        yield
    finally:
        inside = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def entry(line: Line) -> dict[str, Any]:
    """The line's place in the report before it is measured."""
    return {"part": line.part, "name": line.name, "key": dict(line.key), "predicted_us": line.predicted_us}


def measure_line(line: Line, bench: Bench, seconds: float) -> dict[str, Any]:
    """The line's place in the report, with figures or with the reason why it has none."""
    found = entry(line)
    if seconds <= 0:
        return found | {"skipped": "no time left in this part"}
    begin = time.perf_counter()
    try:
        with at_most(seconds):
            found |= line.measure(bench)
    except Overrun:
        return found | {"skipped": f"stopped: the part's time was over after {seconds:.0f} s"}
    except Unavailable as reason:
        return found | {"skipped": str(reason)}
    except Exception as error:  # whatever it is, the other lines are worth having
        message = str(error).strip().splitlines() or [""]
        return found | {"error": f"{type(error).__name__}: {message[0]}"}
    found["seconds"] = time.perf_counter() - begin
    if found["measured_us"]:
        found["ratio"] = found["measured_us"] / line.predicted_us
        if line.unit:
            found["rate"], found["unit"] = line.amount / found["measured_us"] / 1e6, line.unit
    return found


def device_is_lost(device: torch.device) -> bool:
    """Whether an earlier kernel broke the process's CUDA context: then nothing more can be measured in it."""
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def describe(found: Mapping[str, Any]) -> str:
    """A measured line for people."""
    label = f"{found['part']:6} {found['name']:52}"
    for reason in ("skipped", "error"):
        if reason in found:
            return f"{label} {reason}: {found[reason]}"
    rate = f"{found['rate']:8.2f} {found['unit']:8}" if "rate" in found else " " * 17
    return (
        f"{label} {found['predicted_us']:10.1f} {found['measured_us']:10.1f} {found.get('ratio', 0):6.2f} {rate} "
        f"{found.get('kernel', '')[:110]}"
    ).rstrip()


HEADER = f"{'part':6} {'line':52} {'predicted':>10} {'measured':>10} {'ratio':>6} {'rate':>17} kernel   (us)"
