# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM and SIGHUP end a run: while it trains after the running step, with a checkpoint, else at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal ended the run. Not an `Exception`: no library on the way may take it for an error of its own.

    signal_number: the signal's. begun: whether the run had changed anything in its folder."""

    def __init__(self, signal_number: int, *, begun: bool = True) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number
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

    @contextmanager
    def installed(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # Python has signals in the main thread alone
            return
        # under nohup SIGHUP is ignored, and stays so
        numbers = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

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
