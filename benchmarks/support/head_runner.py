# SPDX-License-Identifier: Apache-2.0
"""Runs the providers of bench_sbo.py: steps, the equality check and peak memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from support.clock import Stopwatch, Task
from support.errors import Unavailable, WrongResult
from support.head_problem import Heads, gradients, make_batch, oracle
from support.head_setting import Builder, Provider, Setting
from support.memory import peak_mb, watch_resident_memory
from support.report import Progress
from support.text import Shape

# Largest relative error (norm of the difference over the norm of the float64 gradient) of any one tensor.
# float32: rounding leaves about 1e-6, a wrong term at least 1e-2. bfloat16: eager itself is near 1e-2 in the
# deepest tensors, whose gradients pass four rounded products.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2}


class Bench:
    """Runs steps of providers on fresh batches of one shape."""

    def __init__(self, shape: Shape, device: torch.device, dtype: torch.dtype) -> None:
        self.shape, self.device, self.dtype = shape, device, dtype
        self.heads = Heads(shape).to(device)
        self.batch = functools.lru_cache(maxsize=1)(lambda round_: make_batch(shape, 1000 + round_, device))
        self.pure = functools.lru_cache(
            lambda: Heads(shape).to(device, torch.bfloat16)
        )  # made when it is first used

    def setting(self, progress: Progress, tuned: dict[str, dict[str, Any]] | None = None) -> Setting:
        batch = self.batch(0)

        def full_ms(provider: Provider) -> float:
            watch = Stopwatch(self.device)
            times = []
            for round_ in range(3):  # the first is the warm-up
                self.prepare(provider, round_)(watch)
                times.append(watch.read()["full"])
            progress(f"tried {provider.name} {provider.notes or ''}: full {min(times[1:]):.2f} ms")
            return min(times[1:])

        rows = len(batch.mlm_rows), len(batch.sbo_targets)
        return Setting(self.shape, self.device, self.dtype, rows, full_ms, tuned or {})

    def prepare(self, provider: Provider, round_: int) -> Callable[..., tuple[Tensor, Tensor, Heads]]:
        """A step on the round's batch, all untimed work done; returns loss, hidden states, heads."""
        batch = self.batch(round_)
        heads = self.pure() if provider.precision == "bfloat16" else self.heads
        heads.zero_grad(set_to_none=True)
        hidden = batch.hidden.to(heads.decoder_weight.dtype).detach().requires_grad_()

        def step(watch: Stopwatch | None = None) -> tuple[Tensor, Tensor, Heads]:
            if watch:
                watch.start()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=provider.precision == "autocast"):
                loss = provider.loss(heads, hidden, batch)
            if watch:
                watch.mark("forward")
            loss.backward()
            if watch:
                watch.mark("full")
            return loss.detach(), hidden, heads

        return step

    def errors(self, provider: Provider, expected: tuple[float, dict[str, Tensor]]) -> dict[str, float]:
        """Relative error of the loss and of every gradient, on batch 0."""
        loss, hidden, heads = self.prepare(provider, 0)()
        found = gradients(heads, hidden)
        errors = {"loss": abs(loss.item() - expected[0]) / abs(expected[0])}
        for name, reference in expected[1].items():
            difference = torch.linalg.vector_norm(found[name].double() - reference)
            errors[name] = (difference / torch.linalg.vector_norm(reference)).item()
        return errors

    def check(
        self, providers: Sequence[Provider], progress: Progress
    ) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
        """Largest relative error of each provider; why others are not timed: foreign and wrong, or too large.

        Wrong is an error above the tolerance, or NaN. WrongResult when a provider of this project is wrong.
        """
        progress("float64 oracle")
        expected = oracle(Heads(self.shape).to(self.device, torch.float64), self.batch(0))
        worst, wrong = {}, {}
        for provider in providers:
            try:
                errors = self.errors(provider, expected)
            except torch.OutOfMemoryError as error:
                wrong[provider.name] = f"out of memory: {str(error).splitlines()[0]}"
                continue
            name = max(errors, key=lambda key: errors[key] if errors[key] == errors[key] else float("inf"))
            tolerance = TOLERANCE[torch.float32 if provider.precision == "float32" else torch.bfloat16]
            progress(f"equality  {provider.name}: largest relative error {errors[name]:.1e} ({name})")
            if errors[name] <= tolerance:
                worst[provider.name] = {"relative_error": errors[name], "tensor": name}
                continue
            wrong[provider.name] = (
                f"{provider.name} is wrong: relative error {errors[name]:.3g} in {name} (tolerance {tolerance:g})"
            )
            if not provider.foreign:
                raise WrongResult(f"{wrong[provider.name]}; nothing was timed")
        return worst, wrong

    def task(self, provider: Provider) -> Task:
        def timed(round_: int, watch: Stopwatch) -> None:
            self.prepare(provider, round_ + 1)(watch)

        return timed

    def peaks(
        self, providers: Sequence[Provider], peak: Callable[..., int], progress: Progress
    ) -> dict[str, float]:
        """Peak memory in MB of each provider's step."""
        found = {}
        for provider in providers:
            found[provider.name] = peak_mb(peak, functools.partial(self.prepare, provider))
            progress(f"memory  {provider.name}: {found[provider.name]:.1f} MB")
        return found


def build(
    builders: Mapping[str, Builder], names: Sequence[str], setting: Setting
) -> tuple[list[Provider], dict[str, str]]:
    """The providers of these names that can run here, and why the others cannot."""
    providers, unavailable = [], {}
    for name in names:
        try:
            providers.append(builders[name](setting))
        except Unavailable as reason:
            unavailable[name] = str(reason)
    return providers, unavailable


def child_peaks(
    shape: Shape,
    dtype: torch.dtype,
    builders: Mapping[str, Builder],
    tuned: dict[str, dict[str, Any]],
    threads: int,
    progress: Progress,
) -> dict[str, float]:
    """Peak memory on the CPU of each provider in `tuned`; for a process of its own, see memory.py."""
    torch.set_num_threads(threads)  # each thread may have buffers of its own
    bench = Bench(shape, torch.device("cpu"), dtype)
    providers, _ = build(builders, list(tuned), bench.setting(Progress(quiet=True), tuned))
    return bench.peaks(providers, watch_resident_memory(), progress)
