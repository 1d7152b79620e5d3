# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM and SIGHUP end a run: while it trains after the running step, with a checkpoint, else at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from spanbert_ext.files.signals import Stopped, on_signals


class Interrupted(Stopped):
    """A signal ended the run.

    number: the signal's. begun: whether the run had changed anything in its folder."""

    def __init__(self, number: int, *, begun: bool = True) -> None:
        super().__init__(number)
        self.begun = begun


class StopOnSignal(TrainerCallback):
    """While `installed`, a signal raises `Interrupted`; while `after_step`, it ends training after the running step,
    with a checkpoint, and only a second one ends it at once. Of several processes all stop after the same step.

    begun: to be set when the run changes its folder."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.begun = False
        self._training = False
        self._process = os.getpid()

    def installed(self) -> AbstractContextManager[None]:
        return on_signals(self._handle)

    @contextmanager
    def after_step(self) -> Iterator[None]:
        self._training = True
        try:
            yield
        finally:
            self._training = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._training and os.getpid() != self._process:
            return  # a worker that makes rows: it ends when the run does
        if not self._training or self.signal_number is not None:
            raise Interrupted(number, begun=self.begun)
        self.signal_number = number
        print("\nStopping after this step with a checkpoint; once more stops at once.", flush=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if args.world_size > 1:
            number = torch.tensor([self.signal_number or 0], device=args.device)
            dist.all_reduce(number, op=dist.ReduceOp.MAX)
            self.signal_number = int(number.item()) or None
        if self.signal_number is not None:
            control.should_save = control.should_training_stop = True
        return control
