"""What a corpus may be named, without opening any of it: files, folders, patterns, datasets."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

DATASET = "dataset:"  # what the name of a dataset begins with

_PACKINGS = ("", ".gz", ".xz", ".bz2", ".zst")
TEXT_SUFFIXES = tuple(".txt" + packing for packing in _PACKINGS)
JSON_SUFFIXES = tuple(kind + packing for kind in (".jsonl", ".ndjson") for packing in _PACKINGS)
PARQUET_SUFFIXES = (".parquet",)
SUFFIXES = (*TEXT_SUFFIXES, *JSON_SUFFIXES, *PARQUET_SUFFIXES)
ENDINGS = ".txt, .jsonl, .ndjson (each also with .gz, .xz, .bz2 or .zst) or .parquet"


class DatasetName(NamedTuple):
    """`dataset:PATH[@CONFIGURATION][:SPLIT]`: a folder, or a name on the Hugging Face hub."""

    path: str
    configuration: str | None
    split: str

    @classmethod
    def parse(cls, name: str) -> DatasetName:
        """The parts of a name that begins with `DATASET`; the split is "train" where none is named."""
        match = re.fullmatch(r"(.*?)(?:@([^@/:]+))?(?::([^/:@]+))?", name.removeprefix(DATASET), re.DOTALL)
        return cls(match[1], match[2], match[3] or "train")


def absolute_names(corpus: Sequence[str]) -> list[str]:
    """`corpus` as it can be found from any working folder."""
    return [_absolute(name) for name in corpus]


def _absolute(name: str) -> str:
    if name.startswith(DATASET):
        path = name.removeprefix(DATASET)
        folder = os.path.expanduser(DatasetName.parse(name).path)
        if not os.path.isdir(folder):  # of the hub
            return name
        kept = path[len(DatasetName.parse(name).path) :]
        return f"{DATASET}{os.path.abspath(folder)}{kept}"
    return os.path.abspath(os.path.expanduser(name)) if name else name


def shown(name: str | Path) -> str:
    """A file's name for a message or a table, which hold Unicode alone: other bytes as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
