"""Parts `head` and `step` of tune_cuda.py: where the time of a loss and of a training step goes, by kernel."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from common import Stopwatch, Unavailable
from profiled import StepProfile, profile_step
from sbo_providers import BUILDERS
from sbo_runner import Bench as HeadBench
from text import Shape
from torch import nn
from tune_session import Bench, Line, Sizes

KERNELS = 40  # of a profile that the report keeps
HEAD_STEPS = 5
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


def fields_of(profile: StepProfile) -> dict[str, Any]:
    """A profile for the report; without a GPU the wall time stands for the GPU's."""
    busy = profile.wall_ms if profile.busy_ms is None else profile.busy_ms
    return {
        "measured_us": busy * 1e3,
        "wall_ms": profile.wall_ms,
        "busy_ms": profile.busy_ms,
        "busy_over_wall": None if profile.busy_ms is None else profile.busy_ms / profile.wall_ms,
        "kernels": profile.kernels,
        "syncs": profile.syncs,
        "longest": [
            {"kernel": name, "calls": calls, "us": us, "share": us / busy / 1e3}
            for name, calls, us in profile.longest
        ],
        "table": profile.table(),
    }


def head_line(name: str, sizes: Sizes) -> Line:
    def measure(bench: Bench) -> dict[str, Any]:
        shape = Shape.parse(sizes.shape)
        heads: HeadBench = bench.share("heads", lambda: HeadBench(shape, bench.device, torch.bfloat16))
        provider = BUILDERS[name](heads.setting(bench.progress))
        for round_ in (0, 1):
            heads.prepare(provider, round_)()
        watch, times = Stopwatch(bench.device), []
        for _ in range(HEAD_STEPS):
            heads.prepare(provider, 1)(watch)
            times.append(watch.read()["full"])
        step = heads.prepare(provider, 1)
        return fields_of(profile_step(step, longest=KERNELS)) | {"full_ms": statistics.median(times)}

    seconds = 20.0 if name == "compile" else 3.0
    return Line("head", name, {"provider": name}, HEAD_MS[name] * 1e3, measure, seconds=seconds)


def head_lines(sizes: Sizes, _card: object) -> list[Line]:
    return [head_line(name, sizes) for name in HEAD_MS]


class Trainer:
    """Steps of two models around one set of parameters, as bench_step.py has them."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        try:
            from step_providers import Masks, make_model, stock_model
        except ImportError as error:
            raise Unavailable(f"needs transformers: {error}") from error

        shape = Shape.parse(sizes.shape)
        self.device = device
        self.model = make_model(shape, sizes.layers, device)
        self.models: dict[str, nn.Module] = {"spanbert": self.model, "stock_mlm": stock_model(self.model)}
        self.masks = Masks(shape, device)
        self.how = "eager"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def layers(self) -> list[nn.Module]:
        """Those that are compiled one by one; the last one computes only the rows that the heads read."""
        return list(self.model.bert.encoder.layer[:-1])

    def compiled(self, name: str, how: str) -> nn.Module:
        """The model, with nothing, its layers, or all of it compiled."""
        if how != self.how:
            torch._dynamo.reset()  # one way's graphs count against the next one's recompilations
            self.how = how
        for layer in self.layers():
            layer._compiled_call_impl = None
            if how == "layers":
                layer.compile()
        model = self.models[name]
        return torch.compile(model) if how == "model" else model

    def step(self, model: nn.Module, name: str, with_mask: bool, number: int) -> Callable[[], None]:
        """One training step; stock's masks are ready, as from a DataLoader's worker."""
        ready = self.masks.tokens_by_collator(number) if name == "stock_mlm" else None

        def train() -> None:
            batch = self.masks.spans(number) if ready is None else ready
            kept = {key: value for key, value in batch.items() if with_mask or key != "attention_mask"}
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = model(**kept).loss
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

        return train


def step_line(name: str, how: str, with_mask: bool, sizes: Sizes) -> Line:
    def measure(bench: Bench) -> dict[str, Any]:
        trainer: Trainer = bench.share("trainer", lambda: Trainer(sizes, bench.device))
        model = trainer.compiled(name, how)
        for number in range(3):
            trainer.step(model, name, with_mask, number)()
        watch = Stopwatch(bench.device, launch_ahead=False)
        times = []
        for number in range(3, 6):
            step = trainer.step(model, name, with_mask, number)
            watch.start()
            step()
            watch.mark("full")
            times.append(watch.read()["full"])
        found = fields_of(profile_step(trainer.step(model, name, with_mask, 6), longest=KERNELS))
        return found | {"full_ms": statistics.median(times)}

    key = {"provider": name, "compiled": how, "attention_mask": with_mask}
    label = f"{name}, {'with' if with_mask else 'without'} attention_mask, {how}"
    return Line("step", label, key, STEP_MS[name, how, with_mask] * 1e3, measure, seconds=COMPILE_S[how])


def step_lines(sizes: Sizes, _card: object) -> list[Line]:
    return [step_line(*key, sizes) for key in STEP_MS]
