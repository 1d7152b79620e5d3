# SPDX-License-Identifier: Apache-2.0
"""What Ctrl-C, SIGTERM and SIGHUP do to a command."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal ended the command. Not an `Exception`: no library on the way may take it for an error of its own.

    number: the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def signal_of(stop: KeyboardInterrupt) -> signal.Signals:
    """The signal that ended a command: Ctrl-C where Python itself says so."""
    return signal.Signals(getattr(stop, "number", signal.SIGINT))


@contextmanager
def on_signals(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Each of `SIGNALS` calls `handle`; one that is ignored, as SIGHUP under nohup, stays so. Nothing in another thread
    than the main one, where Python has no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def signals_stop() -> AbstractContextManager[None]:
    """Each of `SIGNALS` raises `Stopped`."""
    return on_signals(_stop)


def ignore(*numbers: int) -> None:
    """In a process that another one ends: what is sent to all of them is that one's to act on."""
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Stopped(number)
