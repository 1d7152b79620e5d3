# SPDX-License-Identifier: Apache-2.0
"""One run a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = ".lock"
_HELD_BY_ANOTHER = (errno.EACCES, errno.EAGAIN)


class InUse(RuntimeError):
    """Another run holds the folder; the message names it."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Holds `folder`, which must exist, for one run. Raises `InUse`.

    A record lock: the system frees it when this process ends, and processes that it forked do not hold it on. (It would
    also free it when this process opened and closed the file elsewhere, which nothing does.) The file goes away with
    the lock. Where the file system has none, a line says so and the run goes on."""
    descriptor = _locked(folder / LOCK_FILE)
    try:
        yield
    finally:
        if descriptor is not None:
            (folder / LOCK_FILE).unlink(missing_ok=True)
            os.close(descriptor)


def _locked(path: Path) -> int | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno in _HELD_BY_ANOTHER:
                raise InUse(
                    f"--output {path.parent} is in use by another run ({holder or 'of unknown number'}): wait for"
                    " it, stop it, or choose another folder"
                ) from None
            print(
                f"{path.parent} cannot be locked ({error.strerror}): let no second run use it",
                file=sys.stderr,
            )
            return None
        if _is_file_at(descriptor, path):
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
            return descriptor
        os.close(descriptor)  # its holder took it away in between


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
