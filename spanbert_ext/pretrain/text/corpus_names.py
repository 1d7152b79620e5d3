# SPDX-License-Identifier: Apache-2.0
"""What a corpus may be named, without opening any of it: files, folders, patterns, datasets."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

DATASET = "dataset:"  # what the name of a dataset begins with

_PACKINGS = ("", ".gz", ".xz", ".bz2", ".zst")
_TEXT = (".txt", ".text")
_MARKUP = (".md", ".markdown", ".rst")
_JSON = (".jsonl", ".ndjson")
_PARQUET = ".parquet"
ENDINGS = ".txt, .text, .jsonl, .ndjson (each also with .gz, .xz, .bz2 or .zst) or .parquet"

Form = Literal["text", "markup", "json", "parquet"]


def form_of(name: str) -> Form | None:
    """What a file of that name holds, by its ending in capitals or not; None where it is none that is read.

    "markup" is text too, but in a folder of text such files are often about it (README.md): they are read where a name
    or a pattern ends so."""
    lower = name.lower()
    if lower.endswith(_PARQUET):
        return "parquet"
    forms: dict[Form, tuple[str, ...]] = {"text": _TEXT, "markup": _MARKUP, "json": _JSON}
    for form, kinds in forms.items():
        if lower.endswith(tuple(kind + packing for kind in kinds for packing in _PACKINGS)):
            return form
    return None


def is_plain_text(name: str) -> bool:
    """Whether it is the name of text that is not packed."""
    return name.lower().endswith((*_TEXT, *_MARKUP))


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
