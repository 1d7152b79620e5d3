"""Files of a data set: plain, .gz or .xz, alone or in a folder; CoNLL documents also inside a .tar.xz."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def read_text(path: Path | str) -> str:
    """The text of a file (UTF-8, plain or packed by gzip or xz), without a byte order mark, lines ended by newlines.
    Raises `DataError` where it is missing, damaged or not UTF-8."""
    raise NotImplementedError


def find_file(folder: Path | str, stems: Sequence[str], suffixes: Sequence[str]) -> Path | None:
    """The file of `folder` that is called one of `stems` (case is ignored) with one of `suffixes` (".tsv"), packed
    (".xz", ".gz") or not; None where there is none. Raises `DataError` where the folder is missing, or two files fit."""
    raise NotImplementedError


def find_files(path: Path | str, suffixes: Sequence[str]) -> list[Path]:
    """`path` itself if it is a file; else the files below that folder with one of `suffixes`, packed or not, sorted.
    Raises `DataError` where there are none."""
    raise NotImplementedError
