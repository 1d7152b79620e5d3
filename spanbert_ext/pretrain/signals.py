"""Ctrl-C and SIGTERM end a run after the running step, with a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Interrupted(Exception):
    """A signal ended the run, after a checkpoint; `signal_number` is the signal's."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class StopOnSignal(TrainerCallback):
    """Ctrl-C and SIGTERM end training after the running step, with a checkpoint; a second one ends it at
    once."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = number
        print("\nStopping after this step with a checkpoint; once more stops at once.", flush=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self.signal_number is not None:
            control.should_save = control.should_training_stop = True
        return control
