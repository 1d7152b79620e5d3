# SPDX-License-Identifier: Apache-2.0
"""Parts `head` and `step` of tune_cuda.py: where the time of a loss and of a training step goes, by kernel."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from support.clock import Stopwatch
from support.errors import Unavailable
from support.head_runner import Bench as HeadBench
from support.head_setting import Builder
from support.profiling import profile_step
from support.text import Shape
from support.tuner.session import Bench, Line, Sizes

if TYPE_CHECKING:  # imports transformers
    from support.step_problem import MakeProvider

KERNELS = 40  # of a profile that the report keeps
WARM_UPS, STEPS = 4, 3  # a step of each text, then those that are timed
BACKEND = "inductor"
# Busy milliseconds at base 32x512 on an H200: what the design aims at for `fused`, what was measured for the others.
HEAD_MS = {"fused": 1.85, "eager_masked": 5.3, "compile": 2.65}
# Seconds until a step runs for the first time, on 16 cores.
COMPILE_S = {"eager": 1.5, "layers": 20.0, "model": 45.0}
# Milliseconds of a step of base 32x512 by provider, compilation and whether it gets attention_mask.
STEP_MS = {
    ("spanbert", "eager", False): 36.0,
    ("stock_mlm", "eager", False): 46.0,
    ("spanbert", "eager", True): 42.0,
    ("stock_mlm", "eager", True): 52.5,
    ("spanbert", "layers", False): 28.0,
    ("stock_mlm", "layers", False): 37.0,
    ("spanbert", "model", False): 30.0,
    ("stock_mlm", "model", False): 38.0,
    ("spanbert", "layers", True): 34.0,
    ("stock_mlm", "layers", True): 43.0,
    ("spanbert", "model", True): 30.0,
    ("stock_mlm", "model", True): 38.0,
}
# What make_provider calls a model by whether it gets attention_mask; no text is padded.
PROVIDERS = {
    ("spanbert", True): "spanbert_tensors",  # with all_text beside it the model would not read the mask
    ("spanbert", False): "spanbert_without_mask",
    ("stock_mlm", True): "stock_mlm_as_shipped",
    ("stock_mlm", False): "stock_mlm",
}


def profile_fields(step: Callable[[], object], times: Sequence[float]) -> dict[str, Any]:
    """A step's profile for the report, and the median of the milliseconds that it takes unprofiled.

    Where there is no profile, of a GPU or at all, that median is the measured time.
    """
    full_ms = statistics.median(times)
    found = {"measured_us": full_ms * 1e3, "full_ms": full_ms}
    try:
        profile = profile_step(step, longest=KERNELS)
    except Exception as error:  # a profiler that does not work here costs the profile alone
        return found | {"profile_error": f"{type(error).__name__}: {error}"}
    found |= {"wall_ms": profile.wall_ms, "table": profile.table()}
    if profile.busy_ms is None:
        return found
    return found | {
        "measured_us": profile.busy_ms * 1e3,
        "busy_ms": profile.busy_ms,
        "busy_over_wall": profile.busy_ms / profile.wall_ms,
        "kernels": profile.kernels,
        "syncs": profile.syncs,
        "longest": [
            {"kernel": name, "calls": calls, "us": us, "share": us / profile.busy_ms / 1e3}
            for name, calls, us in profile.longest
        ],
    }


def head_line(name: str, build: Builder, sizes: Sizes) -> Line:
    def measure(bench: Bench) -> dict[str, Any]:
        shape = Shape.parse(sizes.shape)
        heads: HeadBench = bench.share("heads", lambda: HeadBench(shape, bench.device, torch.bfloat16))
        provider = build(heads.setting(bench.progress))
        for round_ in (0, 1):
            heads.prepare(provider, round_)()
        watch, times = Stopwatch(bench.device), []
        for _ in range(STEPS):
            heads.prepare(provider, 1)(watch)
            times.append(watch.read()["full"])
        return profile_fields(heads.prepare(provider, 1), times)

    seconds = 20.0 if name == "compile" else 3.0
    return Line("head", name, {"provider": name}, HEAD_MS[name] * 1e3, measure, seconds=seconds)


def head_lines(builders: Mapping[str, Builder], sizes: Sizes) -> list[Line]:
    return [head_line(name, builders[name], sizes) for name in HEAD_MS]


def make_trainer(make_provider: MakeProvider, sizes: Sizes, bench: Bench) -> Any:
    try:
        from support import step_runner
    except ImportError as error:
        raise Unavailable(f"needs transformers: {error}") from error
    problem = step_runner.Sizes(Shape.parse(sizes.shape), sizes.layers, torch.bfloat16, BACKEND)
    return step_runner.Trainer(problem, bench.device, make_provider)


def step_line(name: str, how: str, with_mask: bool, make_provider: MakeProvider, sizes: Sizes) -> Line:
    def measure(bench: Bench) -> dict[str, Any]:
        trainer = bench.share("trainer", lambda: make_trainer(make_provider, sizes, bench))
        from support.step_runner import Contestant  # can be imported where there is a trainer

        contestant = Contestant(PROVIDERS[name, with_mask], how)
        for number in range(WARM_UPS):
            trainer.prepare(contestant, number)()
        watch, times = Stopwatch(bench.device, launch_ahead=False), []
        for number in range(STEPS):
            step = trainer.prepare(contestant, number)
            watch.start()
            step()
            watch.mark("full")
            times.append(watch.read()["full"])
        return profile_fields(trainer.prepare(contestant, 0), times)

    key = {"provider": name, "compiled": how, "attention_mask": with_mask}
    label = f"{name}, {'with' if with_mask else 'without'} attention_mask, {how}"
    return Line("step", label, key, STEP_MS[name, how, with_mask] * 1e3, measure, seconds=COMPILE_S[how])


def step_lines(make_provider: MakeProvider, sizes: Sizes) -> list[Line]:
    return [step_line(*key, make_provider, sizes) for key in STEP_MS]
