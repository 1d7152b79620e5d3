"""The logs of a run as lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from spanbert_ext.files.wording import duration
from spanbert_ext.pretrain.run.evaluations import SHARED_LAWS

HEADS = {"mlm": "MLM", "sbo": "SBO", "nsp": "NSP"}


def log_line(logs: Mapping[str, float], step: int, max_steps: int) -> str | None:
    """One line of a training log or an evaluation; None for others, as the summary at the end of training."""
    if "loss" in logs:
        parts = [f"step {step:,}/{max_steps:,}", f"loss {logs['loss']:.3f}", _heads(logs, "")]
        if "tokens_per_second" in logs:
            parts.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
        if "mfu" in logs:
            parts.append(f"MFU {logs['mfu']:.0%}")
        if logs.get("grad_norm") is not None:
            parts.append(f"gradient {logs['grad_norm']:.2g}")
        if step < max_steps and logs.get("tokens_per_second"):
            left = (max_steps - step) / step * logs["tokens_seen"] / logs["tokens_per_second"]
            parts.append(f"{duration(left)} left")
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


class LineLog(TrainerCallback):
    """Prints the logs as lines."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        line = log_line(logs or {}, state.global_step, state.max_steps)
        if line is not None and state.is_world_process_zero:
            self.write(line)

    def write(self, line: str) -> None:
        print(line, flush=True)


class BarLog(LineLog, ProgressCallback):
    """The same above transformers' progress bars."""

    def write(self, line: str) -> None:
        if self.training_bar is None:
            super().write(line)
        else:
            self.training_bar.write(line)
