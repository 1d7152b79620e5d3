"""GLUE's tasks: columns, labels and metrics of each, and a reader for all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class GlueTask:
    """How a task's file looks: columns by name, or by number where the file has no header line."""

    name: str
    text_a: str | int
    text_b: str | int | None
    label: str | int
    labels: tuple[str, ...]  # in the order of their numbers; none: the label is a number
    metrics: tuple[str, ...]  # names of `scores.glue`
    folder: str  # usual name of its folder


@dataclass(frozen=True, slots=True)
class GlueExample:
    """`label` is the number of the label's place in `GlueTask.labels`, or the number itself."""

    id: str
    text_a: str
    text_b: str | None
    label: int | float


GLUE_TASKS: dict[str, GlueTask] = {}


def read_glue(task: str, path: Path | str) -> list[GlueExample]:
    """The examples of a GLUE file (.tsv, packed or not). The id is the line's number. Raises `DataError` with file and
    line for a missing column, an empty text or an unknown label; ValueError for an unknown task."""
    raise NotImplementedError
