"""The tasks by name: what the command line says of each, and where its class is, which is imported when it is used."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from spanbert_ext.evaluate.tasks.form import Task
from spanbert_ext.evaluate.tasks.glue.options import GlueOptions
from spanbert_ext.evaluate.tasks.options import TaskOptions
from spanbert_ext.evaluate.tasks.qa.options import QaOptions


@dataclass(frozen=True)
class Entry:
    """summary: of the task, one line. data: what its --data may be. options: their class. module, name: of its class.
    example: arguments of a call."""

    summary: str
    data: str
    options: type[TaskOptions]
    module: str
    name: str
    example: str

    def make(self) -> Task[Any, Any]:
        return getattr(import_module(self.module), self.name)()


TASKS = {
    "qa": Entry(
        "extractive question answering: exact match and F1, with and without unanswerable questions",
        "a file in SQuAD's format (.json), or a folder of such files: two of one name but for train and dev are one"
        " data set with a split, any other is divided by articles",
        QaOptions,
        "spanbert_ext.evaluate.tasks.qa.task",
        "QaTask",
        "qa spanbert-out bert-base-cased --data squad/ --seeds 5",
    ),
    "glue": Entry(
        "sentence classification, the tasks of GLUE with their own metrics",
        "a task's folder with train.tsv and dev.tsv as GLUE names them (CoLA, MRPC, ...), or the folder of several",
        GlueOptions,
        "spanbert_ext.evaluate.tasks.glue.task",
        "GlueBenchmark",
        "glue spanbert-out bert-base-cased --data glue/MRPC",
    ),
}
