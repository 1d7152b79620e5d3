"""Which files of a folder are which data set of question answering."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.sources import find_files
from spanbert_ext.evaluate.data.squad import Question, read_squad

_PART = re.compile(r"(?:^|[-_.])(train|dev|validation)(?=$|[-_.])", re.IGNORECASE)


def find_sets(path: Path) -> Iterator[tuple[str, tuple[Path, ...], list[Question], int]]:
    """Every data set: its name, its files, its questions, and how many of them are for training.

    A file is a data set, to be divided by cross-validation; two whose names differ in "train" and "dev" alone are one.
    Raises `DataError`."""
    found: dict[str, dict[str, Path]] = {}
    for file in find_files(path, [".json"]):
        stem = file.name.partition(".json")[0]
        part = _PART.search(stem)
        name = _PART.sub("", stem, count=1) if part else stem
        kind = "train" if part and part[1].lower() == "train" else "dev"
        parts = found.setdefault(f"{file.parent}/{name.strip('-_.')}", {})
        if kind in parts:
            raise DataError(
                file, f"{parts[kind].name} beside it is the same part of the same data set: give one"
            )
        parts[kind] = file
    for key, parts in found.items():
        name = key.rpartition("/")[2] or Path(key).parent.name
        if len(parts) == 1:
            (file,) = parts.values()
            yield file.name.partition(".json")[0], (file,), read_squad(file), 0
            continue
        train, dev = read_squad(parts["train"]), read_squad(parts["dev"])
        both = {question.id for question in train} & {question.id for question in dev}
        if both:
            raise DataError(parts["dev"], f"question {min(both)!r} is also in {parts['train'].name}")
        yield name, (parts["train"], parts["dev"]), [*train, *dev], len(train)
