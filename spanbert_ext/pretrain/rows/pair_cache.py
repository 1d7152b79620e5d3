# SPDX-License-Identifier: Apache-2.0
"""Pairs on disk: the paper's own corpus, in the ten copies of Google's BERT, has some 350 million."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from spanbert_ext.files.disk import allow_as_new
from spanbert_ext.pretrain.rows import pairs
from spanbert_ext.pretrain.rows.pairs import PAIR, made_pairs
from spanbert_ext.pretrain.rows.token_documents import TokenDocuments

_CHECKSUM = 16  # bytes behind the pairs
_PIECE = 2**24  # bytes that are read at once
_ABANDONED = (
    3600  # seconds without a write, after which a file that grows all the time is that of a killed process
)


def cached_pairs(folder: Path, documents: TokenDocuments, numbers: np.ndarray, *args: Any) -> np.ndarray:
    """What `build_pairs` returns, made once: later calls and other processes map the file in `folder`.

    The file appears whole, and one that is damaged is made again. Raises OSError when it cannot be written."""
    rules = inspect.getsource(pairs)
    key = "\0".join((documents.fingerprint, repr(args), rules)).encode() + numbers.tobytes()
    path = folder / f"pairs-{hashlib.blake2b(key, digest_size=16).hexdigest()}"
    if not _is_whole(path):
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        descriptor, part = tempfile.mkstemp(dir=folder, prefix=f"{path.name}.", suffix=".part")
        try:
            with os.fdopen(descriptor, "wb") as file:
                checksum = hashlib.blake2b(digest_size=_CHECKSUM)
                for stretch in made_pairs(documents, numbers, *args):
                    checksum.update(stretch.tobytes())
                    file.write(stretch.tobytes())
                file.write(checksum.digest())
                file.flush()
                os.fsync(file.fileno())
            allow_as_new(Path(part))
            os.replace(part, path)
        except BaseException:
            os.unlink(part)
            raise
    count = (path.stat().st_size - _CHECKSUM) // PAIR.itemsize
    return np.memmap(path, dtype=PAIR, mode="r", shape=(count,)) if count else np.empty(0, dtype=PAIR)


def _remove_abandoned(folder: Path) -> None:
    """What killed processes began: it may be gigabytes, and nobody goes on with it."""
    for part in folder.glob("pairs-*.part"):
        with contextlib.suppress(FileNotFoundError):  # another process removes or renames it
            if time.time() - part.stat().st_mtime > _ABANDONED:
                part.unlink()


def _is_whole(path: Path) -> bool:
    """Whether the file is there and ends with the checksum of what stands before."""
    try:
        left = path.stat().st_size - _CHECKSUM
        with path.open("rb") as file:
            checksum = hashlib.blake2b(digest_size=_CHECKSUM)
            while left > 0:
                piece = file.read(min(left, _PIECE))
                if not piece:
                    return False
                checksum.update(piece)
                left -= len(piece)
            return file.read() == checksum.digest()
    except FileNotFoundError:
        return False
