# SPDX-License-Identifier: Apache-2.0
"""A few trial steps before training: how long one takes and how much memory. They leave no trace in the run."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from transformers import Trainer

from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.pretrain.settings.options import OptionError, Options

BOUNDARIES = ("left_boundary", "right_boundary")
ENOUGH_SECONDS = 10.0  # of trials
MANY_ROWS = 100_000  # that are looked at


@dataclass(frozen=True)
class MeasuredStep:
    """What trial steps showed, of one process. `tokens_per_second`: of forward and backward passes. `update_seconds`:
    of the optimizer. `peak_bytes`: of memory with the longest rows, of `total_bytes` that there are."""

    tokens_per_second: float
    update_seconds: float
    peak_bytes: int
    total_bytes: int


def measure_step(
    trainer: Trainer, options: Options, collator: DataCollatorForSpanMasking, train: Any, lengths: np.ndarray
) -> MeasuredStep | None:
    """Runs the longest rows once forward and backward, then usual ones, and one optimizer step at a rate of zero.

    Weights, generators, gradients, the optimizer and the collator's epochs are afterwards what they were. A model that
    is to be sharded is measured whole, before; None when it does not fit so. train, lengths: the training rows, by
    number, and the tokens [N] of each. Raises `OptionError` when the longest rows do not fit into a GPU's memory."""
    device = trainer.args.device
    model, gpu = trainer.model, device.type == "cuda"
    was_training = model.training
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    some = np.linspace(0, len(lengths) - 1, min(len(lengths), MANY_ROWS)).astype(np.int64)
    by_length = some[np.argsort(lengths[some], kind="stable")]
    spread = np.random.default_rng(0).permutation(some)
    budget = _tokens_of_pass(options, trainer.args.world_size)

    def one_pass(order: np.ndarray) -> float:
        """Tokens a second."""
        chosen = _take(order, lengths, options.batch_size, budget)
        batch = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in collator([train[int(row)] for row in chosen]).items()
            if options.sbo or name not in BOUNDARIES
        }
        seconds = _seconds(lambda: _forward_backward(model, batch, options, device), device)
        return int(lengths[chosen].sum()) / seconds

    with torch.random.fork_rng(devices=[device] if gpu else []):
        try:
            model.to(device).train()
            collator = collator.evaluation()
            start = time.perf_counter()
            rates = [one_pass(by_length[::-1])]
            slow = time.perf_counter() - start > ENOUGH_SECONDS
            update = _optimizer_seconds(trainer, options)
            if not slow:
                rates = [one_pass(np.roll(spread, -number * len(spread) // 3)) for number in range(3)]
        except torch.OutOfMemoryError as error:
            if trainer.is_fsdp_enabled:
                return None
            raise OptionError(_does_not_fit(options, device)) from error
        finally:
            model.zero_grad(set_to_none=True)
            trainer.optimizer = None
            model.train(was_training)
    return MeasuredStep(statistics.median(rates), update, *peak_memory(device))


def _tokens_of_pass(options: Options, processes: int) -> float | None:
    if options.tokens_per_batch is None:
        return None
    return options.tokens_per_batch / (options.gradient_accumulation * processes)


def _take(order: np.ndarray, lengths: np.ndarray, rows: int, tokens: float | None) -> np.ndarray:
    """The first of `order` that make one forward pass: so many rows, or rows of about so many tokens."""
    if tokens is not None:
        rows = max(1, int(np.searchsorted(np.cumsum(lengths[order]), tokens, side="right")))
    return order[:rows]


def _forward_backward(model: Any, batch: dict[str, Any], options: Options, device: torch.device) -> None:
    with torch.autocast(device.type, torch.bfloat16, enabled=bool(options.bf16)):
        loss = model(**batch).loss
    loss.backward()


def _optimizer_seconds(trainer: Trainer, options: Options) -> float:
    """Of clipping and a step at a rate of zero, which changes no weight as long as the gradients are finite."""
    optimizer = trainer.create_optimizer()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    parameters = [parameter for parameter in trainer.model.parameters() if parameter.grad is not None]

    def update() -> None:
        norm = torch.nn.utils.clip_grad_norm_(parameters, options.max_grad_norm)
        if torch.isfinite(norm):
            optimizer.step()

    update()  # makes the optimizer's state
    return _seconds(update, trainer.args.device)


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak_memory(device: torch.device) -> tuple[int, int]:
    """Bytes: the most that there was of the process, or of a GPU's tensors, and all that there is."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return torch.cuda.max_memory_allocated(device), total
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak, psutil.virtual_memory().total


def _does_not_fit(options: Options, device: torch.device) -> str:
    doubled = 2 * options.gradient_accumulation
    where = f"do not fit into the memory of {torch.cuda.get_device_name(device)}"
    if options.tokens_per_batch is not None:
        return f"--tokens-per-batch {options.tokens_per_batch} in {options.gradient_accumulation} forward passes: the longest rows {where}; try --gradient-accumulation {doubled}"  # noqa: E501
    if options.batch_size == 1:
        return f"--batch-size 1: the longest row does not fit; try a smaller --block-size than {options.block_size}"
    return (
        f"--batch-size {options.batch_size}: so many of the longest rows {where}; try --batch-size"
        f" {options.batch_size // 2} --gradient-accumulation {doubled}, which is the same update"
    )
