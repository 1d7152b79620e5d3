# SPDX-License-Identifier: Apache-2.0
"""Runs the contestants of bench_step.py: the equality check, warming up, profiles, steps and peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch._dynamo.utils import counters

from support.clock import Stopwatch, Task
from support.errors import Unavailable, WrongResult
from support.memory import peak_mb, watch_resident_memory
from support.profiling import StepProfile, profile_step
from support.report import Progress
from support.step_problem import (
    TEXTS,
    Batch,
    MakeProvider,
    Masks,
    Mode,
    Provider,
    compile_provider,
    make_model,
    twin,
)
from support.text import Shape

# Relative difference of the losses, and of all gradients as one vector. A head that is missing or counted
# twice makes 0.3 and more; bfloat16 rounding passes through every layer.
TOLERANCE = {torch.float32: (1e-5, 1e-3), torch.bfloat16: (1e-2, 1e-1)}
TRAINING_TOLERANCE = 0.1  # of a compiled contestant's loss; dropout's draws differ
SPECIALISATIONS = 64  # of one function that torch.compile may make: contestants share the layers' code


class Contestant(NamedTuple):
    """A provider's name, and what of it is compiled."""

    name: str
    mode: Mode

    def __str__(self) -> str:
        return f"{self.name}, {self.mode}"


@dataclass(frozen=True)
class Sizes:
    """What a Trainer is made of; pickled for the process that measures memory."""

    shape: Shape
    layers: int
    dtype: torch.dtype
    backend: str  # of torch.compile


def graphs_compiled() -> int:
    """By torch.compile, in this process."""
    return counters["stats"]["unique_graphs"]


class Trainer:
    """Steps of every contestant on one set of parameters."""

    def __init__(self, sizes: Sizes, device: torch.device, make_provider: MakeProvider) -> None:
        # Beyond this number torch.compile would fall back to eager in silence.
        torch._dynamo.config.recompile_limit = SPECIALISATIONS
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        self.sizes, self.device, self.make_provider = sizes, device, make_provider
        self.model = make_model(sizes.shape, sizes.layers, device)
        self.masks = Masks(sizes.shape, device)
        self.providers: dict[Contestant, Provider] = {}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def provider(self, contestant: Contestant) -> Provider:
        """In training mode, with modules of its own around the shared parameters."""
        if contestant not in self.providers:
            made = self.make_provider(contestant.name, twin(self.model), self.masks)
            made.module.train()
            self.providers[contestant] = compile_provider(made, contestant.mode, self.sizes.backend)
        return self.providers[contestant]

    def loss(self, provider: Provider, batch: Batch) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.sizes.dtype == torch.bfloat16):
            return provider.loss(batch)

    def prepare(self, contestant: Contestant, step: int) -> Callable[[], torch.Tensor]:
        """A training step that returns its loss, without what a DataLoader's worker would have done.

        On a GPU a worker masks and moves the batch while the device is busy. On a CPU it would take the step's cores.
        """
        provider = self.provider(contestant)
        ready = provider.masks(step) if self.device.type == "cuda" else None

        def train() -> torch.Tensor:
            loss = self.loss(provider, provider.masks(step) if ready is None else ready)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            return loss.detach()

        return train

    def task(self, contestant: Contestant, steps: int) -> Task:
        def timed(round_: int, watch: Stopwatch) -> None:
            prepared = [self.prepare(contestant, (round_ + 1) * steps + step) for step in range(steps)]
            watch.start()
            for train in prepared:
                train()
            watch.mark("full")

        return timed

    def warm_up(self, contestant: Contestant) -> float:
        """Compiles and trains on every text; returns the seconds of the first step. Unavailable where it fails."""
        eager = Contestant(contestant.name, "eager")
        expected = None
        try:
            if contestant.mode != "eager":
                with torch.no_grad():
                    provider = self.provider(eager)
                    expected = self.loss(provider, provider.masks(0)).item()
            begin = time.perf_counter()
            found = self.prepare(contestant, 0)().item()
            seconds = time.perf_counter() - begin
            for step in range(1, TEXTS):
                self.prepare(contestant, step)()
        except Exception as error:  # whatever a compiler raises, or too little memory
            self.optimizer.zero_grad(set_to_none=True)
            self.providers.pop(contestant, None)
            if contestant.mode == "eager" and not isinstance(error, torch.OutOfMemoryError):
                raise
            first_line = (str(error).strip().splitlines() or [""])[0]
            raise Unavailable(f"fails here: {type(error).__name__}: {first_line}") from error
        if expected is not None and not abs(found - expected) <= TRAINING_TOLERANCE * abs(expected):
            raise Unavailable(f"is wrong: its loss is {found:.4g}, {expected:.4g} in eager mode")
        return seconds

    def profile(self, contestant: Contestant) -> StepProfile:
        """Of one warm step."""
        return profile_step(self.prepare(contestant, 0))

    def check(self, pairs: Sequence[tuple[str, str]], progress: Progress) -> dict[str, dict[str, float]]:
        """Differences of pairs of providers in eager mode without dropout; WrongResult beyond the tolerance."""
        batch = self.masks.spans(0)

        def loss_and_gradient(name: str) -> tuple[float, torch.Tensor]:
            provider = self.provider(Contestant(name, "eager"))
            provider.module.eval()
            loss = self.loss(provider, batch)
            loss.backward()
            gradients = [
                torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                for parameter in self.model.parameters()
            ]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            self.optimizer.zero_grad(set_to_none=True)
            provider.module.train()
            return loss.item(), flat

        found = {}
        allowed = TOLERANCE[self.sizes.dtype]
        for pair in pairs:
            (loss, gradient), (other_loss, other_gradient) = map(loss_and_gradient, pair)
            difference = abs(loss - other_loss) / abs(loss)
            apart = ((gradient - other_gradient).norm() / gradient.norm()).item()
            label = " and ".join(pair)
            found[label] = {"loss": difference, "gradients": apart}
            progress(f"equality  {label}: relative difference {difference:.1e}, of gradients {apart:.1e}")
            if not (difference <= allowed[0] and apart <= allowed[1]):
                raise WrongResult(
                    f"{label} should agree: losses differ by {difference:.3g}, gradients by {apart:.3g}; "
                    "nothing was timed"
                )
        return found

    def peaks(
        self, contestants: Sequence[Contestant], peak: Callable[..., int], progress: Progress
    ) -> dict[Contestant, float]:
        """Peak memory in MB of each contestant's step."""
        found = {}
        for contestant in contestants:
            found[contestant] = peak_mb(peak, lambda step, who=contestant: self.prepare(who, step))
            progress(f"memory  {contestant}: {found[contestant]:.1f} MB")
        return found


def child_peaks(
    sizes: Sizes, make_provider: MakeProvider, contestants: Sequence[Contestant], threads: int
) -> dict[Contestant, float]:
    """Peak memory on the CPU; for a process of its own, see memory.py."""
    torch.set_num_threads(threads)
    peak = watch_resident_memory()  # before the first step: what malloc keeps of one would count as alive
    trainer = Trainer(sizes, torch.device("cpu"), make_provider)
    for contestant in contestants:
        trainer.warm_up(contestant)
    return trainer.peaks(contestants, peak, Progress())


def profile_fields(profile: StepProfile) -> dict[str, Any]:
    """As the report has them; None on a CPU."""
    return {
        "gpu_busy_ms": profile.busy_ms,
        "kernels": profile.kernels,
        "syncs": profile.syncs,
        "longest": [{"kernel": name, "calls": calls, "us": us} for name, calls, us in profile.longest],
    }
