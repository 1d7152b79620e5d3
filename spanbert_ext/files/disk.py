# SPDX-License-Identifier: Apache-2.0
"""Files that are on the disk before anything relies on them, and the reason when they cannot be."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
_ROOM = 1 << 20  # bytes; a disk with less is full for any file of a checkpoint


class DiskError(RuntimeError):
    """A file cannot be written; the message names it and why."""


def sync(path: Path) -> None:
    """Returns when the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def allow_as_new(path: Path) -> None:
    """Gives a file the permissions that any new one has: safetensors and tempfile let nobody else read theirs."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)


def sync_tree(folder: Path) -> None:
    """`sync` of a folder and all in it; files get the permissions that any new file has."""
    for root, _, names in os.walk(folder):
        for name in names:
            allow_as_new(Path(root, name))
            sync(Path(root, name))
        sync(Path(root))


def sha256_of(path: Path) -> str:
    """Of a file's content, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_synced(content: str | bytes, path: Path) -> None:
    """A reader, at any time and after any crash, finds the old content or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def temporaries(path: Path) -> list[Path]:
    """What `write_synced` has left beside `path` in processes that were killed in it, or still are in it."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.\d+")
    return [found for found in path.parent.iterdir() if pattern.fullmatch(found.name)]


def empty(folder: Path) -> None:
    """Deletes all that is in a folder, also behind a link to one; nothing when there is none."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        delete(path)


def delete(path: Path) -> None:
    """Deletes whatever stands there; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_anew(folder: Path) -> None:
    """Makes an empty folder in the place of whatever stands there."""
    delete(folder)
    folder.mkdir(parents=True)


@contextlib.contextmanager
def removed_where_empty(*folders: Path) -> Iterator[None]:
    """Of `folders` and those that they stand in, the ones that are made inside and are empty at its end go away: what
    fails, or only looks, leaves no folder that was not there before."""
    missing = {path for folder in folders for path in (folder, *folder.parents) if not os.path.lexists(path)}
    try:
        yield
    finally:
        for path in sorted(missing, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):  # it holds something, or was never made
                path.rmdir()


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"


@contextlib.contextmanager
def explained(what: str, folder: Path) -> Iterator[None]:
    """What is inside writes into `folder`. When it fails because nothing can be written there, raises `DiskError`
    that says so: torch and safetensors have errors of their own for a full disk, which do not."""
    try:
        yield
    except Exception as error:
        reason = _reason(error, folder)
        if reason is None:
            raise
        raise DiskError(f"{what} cannot be written to {folder}: {reason}") from error


def _reason(error: Exception, folder: Path) -> str | None:
    if isinstance(error, OSError) and error.errno is not None:
        return os.strerror(error.errno)
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    if "No space left" in str(error) or shutil.disk_usage(existing).free < _ROOM:
        return os.strerror(errno.ENOSPC)
    return None
