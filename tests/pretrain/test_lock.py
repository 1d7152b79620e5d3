# SPDX-License-Identifier: Apache-2.0
"""One run a folder: the lock refuses a second one, and ends with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spanbert_ext.files.lock import LOCK_FILE, InUse, run_lock

FREE, REFUSED = 7, 8


def forked(work: Callable[[], int]) -> int:
    """The number of a process that does `work` and ends with its result."""
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        status = work()
    finally:
        os._exit(status)


def status_of(number: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def try_lock(folder: Path) -> int:
    try:
        with run_lock(folder):
            return FREE
    except InUse as error:
        (folder / "said").write_text(str(error))
        return REFUSED


def holder(folder: Path, child: bool = False) -> int:
    """A process that holds the lock until it is killed, if asked with a child that outlives it."""

    def hold() -> int:
        with run_lock(folder):
            if child:
                (folder / "child").write_text(str(forked(lambda: time.sleep(60) or 0)))
            (folder / "held").touch()
            time.sleep(60)
        return 0

    number = forked(hold)
    for _ in range(1000):
        if (folder / "held").exists():
            return number
        time.sleep(0.01)
    raise AssertionError("the lock was not taken")


def test_a_second_run_is_refused_and_a_kill_frees(tmp_path):
    number = holder(tmp_path, child=True)
    try:
        assert status_of(forked(lambda: try_lock(tmp_path))) == REFUSED
        said = (tmp_path / "said").read_text()
        assert said.startswith(f"--output {tmp_path} is in use by another run (process {number} on ")
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
        assert (
            tmp_path / LOCK_FILE
        ).exists()  # left behind, and no obstacle, even while the dead one's child lives
        assert status_of(forked(lambda: try_lock(tmp_path))) == FREE
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_nothing_is_left_behind(tmp_path):
    with run_lock(tmp_path):
        assert status_of(forked(lambda: try_lock(tmp_path))) == REFUSED
        assert (tmp_path / LOCK_FILE).exists()  # the refused one does not take it away
        (tmp_path / "said").unlink()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError), run_lock(tmp_path):
        raise ValueError
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_its_holder_takes_away_is_not_a_lock(tmp_path, monkeypatch):
    """The holder ends between our opening of the file and our lock on it."""
    lockf, calls = fcntl.lockf, []

    def late(descriptor, flags):
        if not calls:
            (tmp_path / LOCK_FILE).unlink()
        calls.append(descriptor)
        return lockf(descriptor, flags)

    monkeypatch.setattr(fcntl, "lockf", late)
    with run_lock(tmp_path):
        assert len(calls) == 2
        assert status_of(forked(lambda: try_lock(tmp_path))) == REFUSED


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def refused(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refused)
    with run_lock(tmp_path):
        assert "cannot be locked (No locks available): let no second run use it" in capsys.readouterr().err
