# SPDX-License-Identifier: Apache-2.0
"""GLUE's tasks: columns, labels and metrics of each, and a reader for all."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from pathlib import Path

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.sources import read_lines


@dataclass(frozen=True, slots=True)
class GlueTask:
    """How a task's file looks: columns by name, or by number where the file has no header line."""

    name: str
    text_a: str | int
    text_b: str | int | None
    label: str | int
    labels: tuple[str, ...]  # in the order of their numbers; none: the label is a number
    metrics: tuple[str, ...]  # names of `scores.glue`, the first is the task's own
    folder: str  # usual name of its folder
    train: str = "train"  # usual names of its files
    dev: str = "dev"
    range: tuple[float, float] = (0.0, 0.0)  # of a label that is a number
    has_flaws: bool = False  # lines with other columns are left out, a text may be empty


_BINARY, _ENTAILMENT = ("0", "1"), ("entailment", "not_entailment")
GLUE_TASKS: dict[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask("cola", 3, None, 1, _BINARY, ("Matthews",), "CoLA"),
        GlueTask("sst-2", "sentence", None, "label", _BINARY, ("accuracy",), "SST-2"),
        GlueTask("mrpc", "#1 String", "#2 String", "Quality", _BINARY, ("F1", "accuracy"), "MRPC"),
        GlueTask(
            "sts-b", "sentence1", "sentence2", "score", (), ("Spearman", "Pearson"), "STS-B", range=(0.0, 5.0)
        ),
        GlueTask(  # a few lines of the benchmark's files are cut in two, and left out by all who read them; a few pairs
            # lack a question, and are kept
            "qqp",
            "question1",
            "question2",
            "is_duplicate",
            _BINARY,
            ("F1", "accuracy"),
            "QQP",
            has_flaws=True,
        ),
        GlueTask(
            "mnli",
            "sentence1",
            "sentence2",
            "gold_label",
            ("contradiction", "entailment", "neutral"),
            ("accuracy",),
            "MNLI",
            dev="dev_matched",
        ),
        GlueTask("qnli", "question", "sentence", "label", _ENTAILMENT, ("accuracy",), "QNLI"),
        GlueTask("rte", "sentence1", "sentence2", "label", _ENTAILMENT, ("accuracy",), "RTE"),
        GlueTask("wnli", "sentence1", "sentence2", "label", _BINARY, ("accuracy",), "WNLI"),
    )
}
_COLA_COLUMNS = 4  # source, label, the authors' mark, sentence


@dataclass(frozen=True, slots=True)
class GlueExample:
    """`label` is the number of the label's place in `GlueTask.labels`, or the number itself."""

    id: str
    text_a: str
    text_b: str | None
    label: int | float


def _label(task: GlueTask, value: str, path: Path | str, line: int) -> int | float:
    if task.labels:
        if value not in task.labels:
            message = f"the label {value!r} is unknown; expected one of {', '.join(task.labels)}"
            raise DataError(path, message, line=line)
        return task.labels.index(value)
    low, high = task.range
    try:
        number = float(value.replace("_", "?"))  # 0_1 is a number to Python alone
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        message = f"the label is {value!r}; expected a number from {low:g} to {high:g}"
        raise DataError(path, message, line=line)
    return number


def _positions(task: GlueTask, header: list[str], path: Path | str) -> dict[str | int, int]:
    """Where the columns are that the task reads."""
    wanted = [name for name in (task.text_a, task.text_b, task.label) if name is not None]
    for name in wanted:
        if name not in header:
            meant = difflib.get_close_matches(name, header, 1)
            advice = f"; perhaps {meant[0]!r} is meant" if meant else ""
            message = f"has no column {name!r} (it has {', '.join(map(repr, header))}){advice}"
            raise DataError(path, message, line=1)
    return {name: header.index(name) for name in wanted}


def read_glue(task: str, path: Path | str) -> list[GlueExample]:
    """The examples of a GLUE file (.tsv, packed or not). The id is the line's number. Raises `DataError` with file and
    line for a missing column, a line with other columns, an empty text, an unknown label, or no example at all;
    ValueError for an unknown task."""
    if task not in GLUE_TASKS:
        raise ValueError(f"task is {task!r}; expected one of {', '.join(GLUE_TASKS)}")
    kind = GLUE_TASKS[task]
    lines = read_lines(path)
    if isinstance(kind.text_a, int):
        columns, begin = _COLA_COLUMNS, 0
        place: dict[str | int, int] = {number: number for number in range(columns)}
    else:
        header = lines[0].split("\t") if lines else []
        columns, begin = len(header), 1
        place = _positions(kind, header, path)
    examples = []
    for number, line in enumerate(lines[begin:], begin + 1):
        values = line.split("\t")
        if len(values) != columns:
            if kind.has_flaws:
                continue
            raise DataError(path, f"has {len(values)} columns; expected {columns}", line=number)
        text_a = values[place[kind.text_a]]
        text_b = None if kind.text_b is None else values[place[kind.text_b]]
        empty = not text_a.strip() or (text_b is not None and not text_b.strip())
        if empty and not kind.has_flaws:
            raise DataError(path, "a text is empty", line=number)
        examples.append(
            GlueExample(str(number), text_a, text_b, _label(kind, values[place[kind.label]], path, number))
        )
    if not examples:
        raise DataError(path, "holds no example")
    return examples
