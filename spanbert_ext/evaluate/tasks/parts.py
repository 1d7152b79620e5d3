# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are parts of the same data set."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.sources import plain_name

_PART = re.compile(r"(?:^|[-_.])(train|dev|validation)(?=$|[-_.])", re.IGNORECASE)


@dataclass(frozen=True)
class Parts:
    """The files of one data set: to train on and to test, or one of the two, which cross-validation divides."""

    name: str
    train: Path | None
    dev: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(file for file in (self.train, self.dev) if file is not None)

    @property
    def has_split(self) -> bool:
        return len(self.files) == 2


def part_of(stem: str) -> str | None:
    """ "train", "dev", or None where a name says neither."""
    found = _PART.search(stem)
    return None if found is None else "train" if found[1].lower() == "train" else "dev"


def group_parts(files: Iterable[Path]) -> list[Parts]:
    """A file is a data set; two of one folder whose names differ in "train" and "dev" alone are one. Raises `DataError`
    where two are the same part."""
    found: dict[tuple[Path, str], dict[str, Path]] = {}
    for file in files:
        stem = _stem(file)
        name = _PART.sub("", stem, count=1).strip("-_.")
        parts = found.setdefault((file.parent, name), {})
        kind = part_of(stem) or "dev"
        if kind in parts:
            raise DataError(
                file, f"{parts[kind].name} beside it is the same part of the same data set: give one"
            )
        parts[kind] = file
    sets = []
    for (folder, name), parts in found.items():
        own = name and (name if len(parts) == 2 else _stem(*parts.values()))
        own = own or folder.resolve().name  # of files called only "train" and "dev"
        sets.append(Parts(own, parts.get("train"), parts.get("dev")))
    return sets


def _stem(file: Path) -> str:
    return plain_name(file).rpartition(".")[0]
