# SPDX-License-Identifier: Apache-2.0
"""Updates whose loss is not a number or jumps: what counts as one, and that no weight is changed by it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from spanbert_ext.pretrain.run.run_progress import TOKENS, RunProgress

_MEMORY = 100  # updates that the running means go back
_FACTOR = 10  # mean absolute deviations above the mean; 8 standard deviations of a normal distribution
_LEAST = 1.0  # nats above the mean
_MOST_IN_A_ROW = 20  # skipped: then it is not the batch


class BadLossError(RuntimeError):
    """Training cannot go on with these weights or this batch; the message says at which update and why."""


@dataclass
class LossRecord:
    """The running mean of the updates' losses and of their distance from it."""

    updates: int = 0
    mean: float = 0.0
    deviation: float = 0.0

    def limit(self) -> float:
        """A higher loss is a jump: ten mean deviations above the mean, and at least 1 nat. Before there is a mean to
        speak of, in the first 100 updates, it must have doubled besides; the first one is never a jump."""
        if self.updates == 0:
            return math.inf
        least = _LEAST if self.updates >= _MEMORY else max(_LEAST, self.mean)
        return self.mean + max(_FACTOR * self.deviation, least)

    def add(self, loss: float) -> None:
        weight = 1 / min(self.updates + 1, _MEMORY)
        if self.updates:
            self.deviation += weight * (abs(loss - self.mean) - self.deviation)
        self.mean += weight * (loss - self.mean)
        self.updates += 1


class UpdateGuard(TrainerCallback, ExportableState):
    """Looks at every update before it changes a weight: its loss, of all processes, and whether its gradient is
    finite.

    A bad one ends training with `BadLossError`, or is skipped: weights and optimizer stay as they are, the schedule
    goes on, and the logged losses leave it out. Its state is in every checkpoint.

    Args:
        skip: whether bad updates are skipped.
        progress: the Trainer's; what a skipped update added to its losses is taken back.
        describe: what an update (from 1 on) read, for the message.
    """

    def __init__(
        self, *, skip: bool, progress: RunProgress, describe: Callable[[int], str] | None = None
    ) -> None:
        self.skip = skip
        self.progress = progress
        self.describe = describe
        self.record = LossRecord()
        self.skipped = 0
        self._in_a_row = 0
        self._loss: Tensor | None = None
        self._before = progress.sums

    def add(self, loss: Tensor) -> None:
        """loss: [] of one forward pass, weighted as in the update's."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def state(self) -> dict[str, Any]:
        kept = asdict(self.record) | {"skipped": self.skipped, "in_a_row": self._in_a_row}
        return {"args": {}, "attributes": kept}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        saved = state.stateful_callbacks.get(type(self).__name__) if state.global_step else None
        if saved is not None:
            kept = dict(saved["attributes"])
            self.skipped, self._in_a_row = kept.pop("skipped"), kept.pop("in_a_row")
            self.record = LossRecord(**kept)
        state.stateful_callbacks[type(self).__name__] = self.state()  # Trainer wants a place for it

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._loss = None
        self._before = self.progress.sums.clone()

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        loss, norm = self._read(parameters, args)
        reason = self._reason(loss, norm)
        if reason is None:
            self.record.add(loss)
            self._in_a_row = 0
            return
        update = state.global_step + 1
        what = f"update {update}{f' ({self.describe(update)})' if self.describe else ''}: {reason}"
        if not self.skip:
            raise BadLossError(
                f"{what}. No weight was changed by it. --resume takes the steps since the last checkpoint again, and"
                " with --on-bad-loss skip leaves this one out; a lower --learning-rate takes a new run"
            )
        self._in_a_row += 1
        if self._in_a_row == _MOST_IN_A_ROW:
            raise BadLossError(f"{what}. It is one of {_MOST_IN_A_ROW} in a row, so not the text's fault")
        self.skipped += 1
        if state.is_world_process_zero:
            print(f"\nSkipped {what}.", flush=True)
        for parameter in parameters:
            parameter.grad = None  # an optimizer leaves parameters without a gradient alone
        sums = self.progress.sums
        self._before = self._before.to(sums.device, sums.dtype)
        sums[:TOKENS] = self._before[:TOKENS]  # the tokens have been read all the same

    def _read(self, parameters: list[nn.Parameter], args: TrainingArguments) -> tuple[float, float]:
        """Loss and gradient norm of the update, by the only wait for the device."""
        norm = nn.utils.get_total_norm([p.grad for p in parameters])
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        both = torch.stack([self._loss.float().reshape(()), norm.float().reshape(())])
        if args.world_size > 1:  # the same decision everywhere; the norm is of the summed gradient anyway
            dist.all_reduce(both)
            both /= args.world_size
        loss, norm_value = both.tolist()
        return loss, norm_value

    def _reason(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return "the gradient holds NaN or an infinity"
        if loss > self.record.limit():
            return f"the loss jumped to {loss:.3f}, from a mean of {self.record.mean:.3f}"
        return None


class GuardedUpdates:
    """A Trainer (mixed in before it) with an `UpdateGuard`, given by `guard_updates`."""

    guard: UpdateGuard | None = None

    def guard_updates(self, guard: UpdateGuard) -> None:
        self.guard = guard
        self.add_callback(guard)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.guard is not None:
            self.guard.add(loss)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self.guard is not None and self.guard.skipped and "loss" in logs:
            logs["skipped_updates"] = self.guard.skipped
        super().log(logs, *args, **kwargs)
