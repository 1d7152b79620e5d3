# SPDX-License-Identifier: Apache-2.0
"""Commands one after the other, of which those that are done are not done again."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spanbert_ext.files.signals import signals_stop
from support.machine import REPOSITORY
from support.report import write_json

DONE, BEGUN = "done.json", "begun.json"


class StepFailed(Exception):
    """A command ended with an error; the message says which, and where its output is."""


class TimeIsOver(Exception):
    """The time that was given is over; what is done is kept."""


@dataclass(frozen=True)
class Step:
    """A command that goes on where it was stopped. resumed: what is called instead where `begun` exists, which the same
    command made; another command than that has to see for itself what it finds there."""

    name: str
    command: tuple[str, ...]
    begun: Path | None = None
    resumed: tuple[str, ...] = ()

    @property
    def has_begun(self) -> bool:
        return self.begun is not None and self.begun.exists()


class Runner:
    """Runs steps in a folder of work, which remembers those that have ended well by their whole command.

    seconds: after these what runs is asked to stop, and no step begins."""

    def __init__(self, folder: Path, seconds: float | None = None) -> None:
        self.folder = folder
        self.end = None if seconds is None else time.monotonic() + seconds
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "logs").mkdir(exist_ok=True)
        self._done, self._begun = (_commands(folder / name) for name in (DONE, BEGUN))

    def is_done(self, step: Step) -> bool:
        return self._done.get(step.name) == list(step.command)

    def run(self, steps: Sequence[Step], together: int = 1) -> None:
        """Runs those that are not done, `together` at a time. Raises `StepFailed`, `TimeIsOver` and
        `KeyboardInterrupt`."""
        waiting = [step for step in steps if not self.is_done(step)]
        with signals_stop():  # the steps too: in sessions of their own, they hear of no terminal
            for begin in range(0, len(waiting), together):
                self._run_together(waiting[begin : begin + together])

    def _run_together(self, steps: Sequence[Step]) -> None:
        if self.end is not None and time.monotonic() >= self.end:
            raise TimeIsOver(f"{steps[0].name} has not begun")
        begin = time.monotonic()
        started = []
        try:
            for step in steps:
                started.append((step, self._start(step, alone=len(steps) == 1)))
            for _, process in started:
                process.wait(None if self.end is None else max(0.0, self.end - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as stop:
            # each is in a session of its own and hears of Ctrl-C from here alone: a second one would end it at once
            for _, process in started:
                if process.poll() is None:
                    process.terminate()
            for _, process in started:
                process.wait()
            self._note(started)
            if isinstance(stop, KeyboardInterrupt):
                raise
            if any(not self.is_done(step) for step in steps):
                raise TimeIsOver(f"{', '.join(step.name for step in steps)} stopped") from None
            return
        self._note(started)
        for step, process in started:
            if process.returncode:
                raise StepFailed(
                    f"{step.name} ended with {process.returncode}; its output is in {self._log(step)}\n"
                    f"  {shlex.join(self._arguments(step))}\n{_tail(self._log(step))}"
                )
        self._say(f"{', '.join(step.name for step in steps)}: {time.monotonic() - begin:,.0f} s")

    def _arguments(self, step: Step) -> tuple[str, ...]:
        own = list(step.command)
        before = self._begun.get(step.name, self._done.get(step.name, own))
        return step.resumed if step.has_begun and before == own else step.command

    def _start(self, step: Step, alone: bool) -> subprocess.Popen:
        arguments = self._arguments(step)
        if not step.has_begun:
            self._begun[step.name] = list(step.command)
            write_json(self.folder / BEGUN, self._begun)
        self._say(f"{step.name}: {shlex.join(arguments)}")
        with self._log(step).open("ab") as log:
            # progress bars of one go to the terminal, those of several would overwrite each other
            errors = None if alone and sys.stderr.isatty() else subprocess.STDOUT
            return subprocess.Popen(
                arguments,
                cwd=self.folder,
                env=_environment(),
                stdout=log,
                stderr=errors,
                start_new_session=True,
            )

    def _note(self, started: Sequence[tuple[Step, subprocess.Popen]]) -> None:
        for step, process in started:
            if process.returncode == 0:
                self._done[step.name] = list(step.command)
        write_json(self.folder / DONE, self._done)

    def _log(self, step: Step) -> Path:
        return self.folder / "logs" / f"{step.name}.log"

    def _say(self, text: str) -> None:
        print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def _commands(path: Path) -> dict[str, list[str]]:
    """By the names of steps."""
    return json.loads(path.read_text()) if path.exists() else {}


def _environment() -> dict[str, str]:
    """In which `python -m support....` finds this folder's modules."""
    paths = [str(REPOSITORY / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _tail(path: Path, lines: int = 12) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
