# SPDX-License-Identifier: Apache-2.0
"""What a corpus may be named, without opening any of it: files, folders, patterns, datasets."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from spanbert_ext.files.commands import place

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
        """The parts of a name that begins with `DATASET`; the split is "train" where none is named. A folder that is
        there is meant, whatever its characters."""
        whole = name.removeprefix(DATASET)
        for path, split in ((whole, ""), whole.rpartition(":")[::2]):
            if path and os.path.isdir(os.path.expanduser(path)):
                return cls(path, None, split or "train")
        match = re.fullmatch(r"(.*?)(?:@([^@/:]+))?(?::([^/:@]+))?", whole, re.DOTALL)
        return cls(match[1], match[2], match[3] or "train")


def given_pattern(name: str) -> str | None:
    """The pattern that the name of a corpus is, with the home folder for ~; None where it is that of a file or folder:
    of one that exists, whatever its characters, or without the characters of a pattern."""
    if not glob.has_magic(name) or os.path.lexists(os.path.expanduser(name)):
        return None
    return _joined(*_home_and_rest(name))


def literal_name(pattern: str) -> str | None:
    """The only name that a pattern of `glob.escape` matches; None for one that may match others."""
    name = re.sub(r"\[([*?[])\]", r"\1", pattern)
    return name if glob.escape(name) == pattern else None


def _home_and_rest(name: str) -> tuple[str, str]:
    """The home folder that a name begins with, empty where it begins with none, and what follows."""
    user, slash, rest = name.partition("/")
    home = os.path.expanduser(user)
    return (home, rest) if home != user else ("", name)


def _joined(folder: str, pattern: str) -> str:
    """A pattern in a folder, whose own brackets are none of it."""
    return os.path.join(glob.escape(folder), pattern)


def absolute_names(corpus: Sequence[str]) -> list[str]:
    """`corpus` as it can be found from any working folder. What does not exist is a pattern, of that name alone where
    it has no pattern's characters."""
    return [_absolute(name) for name in corpus]


def _absolute(name: str) -> str:
    if name.startswith(DATASET):
        path = name.removeprefix(DATASET)
        folder = os.path.expanduser(DatasetName.parse(name).path)
        if not os.path.isdir(folder):  # of the hub
            return name
        kept = path[len(DatasetName.parse(name).path) :]
        return f"{DATASET}{os.path.abspath(folder)}{kept}"
    if not name or os.path.lexists(os.path.expanduser(name)):
        return os.path.abspath(os.path.expanduser(name)) if name else name
    home, rest = _home_and_rest(name)
    return os.path.normpath(_joined(home or os.getcwd(), rest))


def shown(name: str | Path) -> str:
    """A file's name for a message or a table, which hold Unicode alone: other bytes as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def typed(path: str | Path) -> str:
    """A path as a word of a command that works from any folder: absolute, and quoted where a shell wants that."""
    return place(os.path.abspath(path))
