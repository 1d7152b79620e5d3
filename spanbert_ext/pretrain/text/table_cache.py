# SPDX-License-Identifier: Apache-2.0
"""Tables that the datasets library keeps on disk: damage in one, and a folder that cannot be used, are said by name."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, config

from spanbert_ext.files.disk import sha256_of, write_synced
from spanbert_ext.files.paths import given_path
from spanbert_ext.pretrain.text.corpus_names import shown, typed
from spanbert_ext.pretrain.text.text_files import CorpusError

_SUM = ".sha256"  # beside a table: its size and checksum


def _base(cache_dir: str | None) -> Path:
    return given_path(cache_dir) if cache_dir else Path(config.HF_DATASETS_CACHE)


def cache_folder(cache_dir: str | None, key: str) -> Path:
    """The folder of the tables that are made of one corpus; `key` names what they depend on."""
    return _base(cache_dir) / "spanbert_ext" / key


def check_cache(cache_dir: str | None) -> None:
    """Makes the cache's folder. Raises `CorpusError` that names it where nothing can be written there."""
    folder = _base(cache_dir)
    with explained_cache(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _files(table: Dataset) -> list[Path]:
    return sorted({Path(file["filename"]) for file in table.cache_files})


def check_table(table: Dataset) -> Dataset:
    """`table`, whose files are as they were when it was first given here. Raises `CorpusError` for one that is not:
    nothing else sees a byte that changed."""
    for path in _files(table):
        record = path.with_name(path.name + _SUM)
        found = f"{path.stat().st_size} {sha256_of(path)}\n"
        if not record.exists():
            write_synced(found, record)
        elif record.read_text() != found:
            raise _damaged(path.parent, [path], "its checksum is not the one it was written with")
    return table


def _damaged(folder: Path, files: list[Path], reason: str) -> CorpusError:
    names = ", ".join(shown(path) for path in files) or f"a file in {shown(folder)}"
    return CorpusError(
        f"a table in the cache is damaged ({reason}): {names}. Delete it, and it is made again: rm -r {typed(folder)}"
    )


def _unreadable(folder: Path) -> list[Path]:
    broken = []
    for path in sorted(folder.rglob("*.arrow")):
        try:
            with pa.memory_map(str(path)) as source:
                pa.ipc.open_stream(source).read_all()
        except (pa.ArrowException, OSError):
            broken.append(path)
    return broken


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@contextmanager
def explained_cache(folder: Path) -> Iterator[None]:
    """What is inside makes or reads tables in `folder`. Raises `CorpusError` that names the folder, or the damaged
    file in it, and the remedy, in the place of what the datasets library and pyarrow say."""
    try:
        yield
    except Exception as error:
        chain = list(_chain(error))
        for cause in chain:  # the datasets library wraps what its generator raises
            if isinstance(cause, CorpusError):
                raise cause from None
        for cause in chain:
            if isinstance(cause, OSError) and cause.errno is not None:
                raise CorpusError(
                    f"the cache cannot be used in {shown(folder)}: {cause.strerror}; name another folder with"
                    " --cache-dir"
                ) from error
        broken = _unreadable(folder)
        if broken:
            raise _damaged(folder, broken, "it cannot be read") from error
        raise


def cached_table(make: Callable[[], Dataset], folder: Path) -> Dataset:
    """The table that `make` makes in `folder`, or reads there, with its files checked. Raises `CorpusError`."""
    with explained_cache(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return check_table(make())


def derived_table(make: Callable[[], Dataset], source: Dataset) -> Dataset:
    """The table that `make` makes of `source`, or reads where it was made before, which is beside the files of
    `source`, with its own files checked. Raises `CorpusError`."""
    files = _files(source)
    if not files:  # in memory, and what is made of it too
        return make()
    with explained_cache(files[0].parent):
        return check_table(make())
