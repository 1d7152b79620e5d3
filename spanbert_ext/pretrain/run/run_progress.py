# SPDX-License-Identifier: Apache-2.0
"""What a run has read and how long it took: sums since the last log and since its first step, in every checkpoint."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

HEADS = ("mlm", "sbo", "nsp")  # each has a loss, targets and correct ones among the sums, in this order
TOKENS, PAIRS = 9, 10  # places of the tokens read and of the squared row lengths
SUMS = 11

# Entries of a log that say how fast this machine was: two runs that learn the same differ in these alone.
MEASURED = frozenset(
    {"tokens_per_second", "tflop_per_second", "mfu", "memory_gb", "seconds"}
    | {
        f"{prefix}_{what}"
        for prefix in ("train", "eval", "eval_spans", "eval_tokens")
        for what in ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
    }
)


class RunProgress(TrainerCallback, ExportableState):
    """Sums of the training steps, kept on the device until they are logged; saved with every checkpoint, so that a
    resumed run logs what the uninterrupted one does, to the last bit in one process."""

    def __init__(self) -> None:
        self.sums = torch.zeros(SUMS, dtype=torch.float64)  # since the last log, on this rank
        self.totals = torch.zeros(SUMS, dtype=torch.float64)  # up to the last log, of all ranks
        self.seconds = 0.0  # of training up to the last log, without evaluations and checkpoints
        self._since = time.perf_counter()
        self._paused = 0.0
        self._stopped: float | None = None  # since when, inside `paused`

    def add(self, row_statistics: Tensor, nsp_statistics: Tensor | None, attention_mask: Tensor) -> None:
        """A batch: `row_statistics` [B, 6], `nsp_statistics` [B, 3 or more] or None, `attention_mask` [B, L]."""
        self._move(row_statistics.device)
        lengths = attention_mask.sum(1).to(self.sums.dtype)  # [B]
        self.sums[:6] += row_statistics.detach().to(self.sums.dtype).sum(0)
        if nsp_statistics is not None:
            self.sums[6:9] += nsp_statistics.detach()[:, :3].to(self.sums.dtype).sum(0)
        self.sums[TOKENS] += lengths.sum()
        self.sums[PAIRS] += (lengths * lengths).sum()

    def _move(self, device: torch.device) -> None:
        if self.sums.device != device:
            self.sums = self.sums.to(device, torch.float32 if device.type == "mps" else torch.float64)

    def gather(self, accelerator: Any) -> Tensor:
        """[11] on the CPU: the sums of all ranks since the last log. From now on the first rank's own are these, and
        the others' zero."""
        self._move(
            accelerator.device
        )  # NCCL takes no others, and a run that is only reported has added nothing
        total = accelerator.reduce(self.sums, "sum")
        self.sums = total.clone() if accelerator.is_main_process else torch.zeros_like(total)
        return total.double().cpu()

    def take(self, accelerator: Any) -> tuple[Tensor, float]:
        """Sums and seconds since the last log, which is now."""
        sums, seconds = self.gather(accelerator), self._elapsed()
        self.totals += sums
        self.seconds += seconds
        self.sums.zero_()
        self._restart_clock()
        return sums, seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What runs inside is not training: an evaluation, a checkpoint."""
        self._stopped = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - self._stopped
            self._stopped = None

    def _elapsed(self) -> float:
        now = time.perf_counter() if self._stopped is None else self._stopped
        return now - self._since - self._paused

    def _restart_clock(self) -> None:
        self._since, self._paused = time.perf_counter(), 0.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps. On several ranks `gather` comes before, and this on the first alone."""
        kept = {"sums": self.sums.tolist(), "totals": self.totals.tolist()}
        return {"args": {}, "attributes": kept | {"seconds": self.seconds, "elapsed": self._elapsed()}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._restart_clock()
        self.sums.zero_()  # of steps that were only to measure
        saved = state.stateful_callbacks.get(type(self).__name__) if state.global_step else None
        if saved is not None:
            kept = saved["attributes"]
            self.totals = torch.tensor(kept["totals"], dtype=torch.float64)
            self.sums = torch.tensor(kept["sums"], dtype=torch.float64)
            if not state.is_world_process_zero:
                self.sums.zero_()
            self.seconds, self._paused = kept["seconds"], -kept["elapsed"]
        state.stateful_callbacks[type(self).__name__] = self.state()  # Trainer wants a place for it


def head_means(sums: Tensor) -> dict[str, float]:
    """`mlm_loss`, `mlm_accuracy`, ... of sums [11]; a head without targets has no entry."""
    means = {}
    for head, (nll, count, correct) in zip(HEADS, sums[:9].reshape(3, 3).tolist(), strict=True):
        if count > 0:
            means[f"{head}_loss"] = nll / count
            means[f"{head}_accuracy"] = correct / count
    return means


def peak_memory_gb(device: torch.device) -> float:
    """Gigabytes (1e9) of the device's memory that tensors took at most; on the CPU, of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
