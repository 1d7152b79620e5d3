# SPDX-License-Identifier: Apache-2.0
"""The logs of a run as lines for people."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import has_length

from spanbert_ext.files.wording import duration
from spanbert_ext.pretrain.run.evaluations import SHARED_LAWS, evaluation_seconds, evaluations_to_come

HEADS = {"mlm": "MLM", "sbo": "SBO", "nsp": "NSP"}
OFTEN = 60.0  # seconds between two lines about one evaluation
BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


def log_line(
    logs: Mapping[str, float], step: int, max_steps: int, seconds_left: float | None = None
) -> str | None:
    """One line of a training log or an evaluation; None for others, as the summary at the end of training.
    seconds_left: until the run ends, where that is known."""
    if "loss" in logs:
        parts = [f"step {step:,}/{max_steps:,}", f"loss {logs['loss']:.3f}", _heads(logs, "")]
        if "tokens_per_second" in logs:
            parts.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
        if "mfu" in logs:
            parts.append(f"MFU {logs['mfu']:.0%}")
        if logs.get("grad_norm") is not None:
            parts.append(f"gradient {logs['grad_norm']:.2g}")
        if seconds_left:
            parts.append(f"{duration(seconds_left)} left")
        return " · ".join(part for part in parts if part)
    for law in ("", *SHARED_LAWS):
        prefix = f"eval_{law}_" if law else "eval_"
        if f"{prefix}mlm_loss" in logs:
            return f"  held-out{f', {law} masked' if law else ''}: {_heads(logs, prefix)}"
    return None


def _heads(logs: Mapping[str, float], prefix: str) -> str:
    found = []
    for head, title in HEADS.items():
        if f"{prefix}{head}_loss" in logs:
            right = logs[f"{prefix}{head}_accuracy"]
            found.append(f"{title} {logs[f'{prefix}{head}_loss']:.3f} ({right:.1%} right)")
    return ", ".join(found)


class TimeLeft:
    """What is left of a run as its logs tell: its steps, as fast as the last ones, and the evaluations that are to
    come, each as long as the last one."""

    def __init__(self) -> None:
        self._step_seconds: float | None = None
        self._evaluation_seconds = 0.0

    def update(self, logs: Mapping[str, float], state: TrainerState) -> None:
        """logs: of training, at `state.global_step`, with `tokens_seen` up to it and `tokens_per_second`."""
        if logs.get("tokens_per_second"):
            tokens = logs["tokens_seen"] / state.global_step  # of a step
            self._step_seconds = tokens / logs["tokens_per_second"]
        self._evaluation_seconds = evaluation_seconds(state.log_history)

    def seconds(self, state: TrainerState) -> float | None:
        """After a step, before its evaluation where it has one; None before the first log."""
        if self._step_seconds is None:
            return None
        step, last = state.global_step, state.max_steps
        to_come = evaluations_to_come(step - 1, last, state.eval_steps)
        return (last - step) * self._step_seconds + to_come * self._evaluation_seconds


class LineLog(TrainerCallback):
    """Prints the logs as lines, and how far an evaluation is that takes minutes."""

    def __init__(self) -> None:
        super().__init__()
        self.left = TimeLeft()
        self._batches = 0  # of the evaluation that goes on
        self._began = self._told = 0.0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs, seconds = logs or {}, None
        if "loss" in logs:
            self.left.update(logs, state)
            seconds = self.left.seconds(state)
        line = log_line(logs, state.global_step, state.max_steps, seconds)
        if line is not None and state.is_world_process_zero:
            self.write(line)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        now = time.perf_counter()
        if not self._batches:
            self._began = self._told = now
        self._batches += 1
        if now - self._told >= OFTEN and state.is_world_process_zero and has_length(eval_dataloader):
            count, self._told = len(eval_dataloader), now
            left = (count - self._batches) * (now - self._began) / (self._batches - 1)
            self.write(f"  held-out: {self._batches:,} of {count:,} batches, {duration(left)} left")

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._batches = 0

    def write(self, line: str) -> None:
        print(line, flush=True)


class BarLog(LineLog, ProgressCallback):
    """The same above transformers' progress bars, of which that of the steps ends with what is left of the run: its own
    guess would be of steps alone, or of the evaluation that came last."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.bar_format = BAR

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        seconds = self.left.seconds(state)
        if self.training_bar is not None and seconds:
            self.training_bar.set_postfix_str(f"{duration(seconds)} left", refresh=False)
        super().on_step_end(args, state, control, **kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.training_bar is not None:
            self.training_bar.set_postfix_str("", refresh=False)
        super().on_train_end(args, state, control, **kwargs)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        begins = self.prediction_bar is None
        ProgressCallback.on_prediction_step(self, args, state, control, eval_dataloader, **kwargs)
        if begins and self.prediction_bar is not None:
            self.prediction_bar.set_description("held-out")

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        ProgressCallback.on_evaluate(self, args, state, control, **kwargs)

    def write(self, line: str) -> None:
        if self.training_bar is None:
            super().write(line)
        else:
            self.training_bar.write(line)
