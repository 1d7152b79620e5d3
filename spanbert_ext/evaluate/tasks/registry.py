# SPDX-License-Identifier: Apache-2.0
"""The tasks by name: what the command line says of each, and where its class is, which is imported when it is used."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from spanbert_ext.evaluate.tasks.coref.options import CorefOptions
from spanbert_ext.evaluate.tasks.glue.options import GlueOptions
from spanbert_ext.evaluate.tasks.options import TaskOptions
from spanbert_ext.evaluate.tasks.probe.options import ProbeOptions
from spanbert_ext.evaluate.tasks.qa.options import QaOptions
from spanbert_ext.evaluate.tasks.relation.options import RelationOptions

if TYPE_CHECKING:
    from spanbert_ext.evaluate.tasks.form import Task


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
    "coref": Entry(
        "end-to-end coreference from the boundaries of mentions: CoNLL F1, MUC, B-cubed and CEAF-e",
        "documents in CoNLL format: a file, a tar archive, or a folder of these; divided by documents where the names"
        " of files do not say train and dev",
        CorefOptions,
        "spanbert_ext.evaluate.tasks.coref.task",
        "CorefTask",
        "coref spanbert-out bert-base-cased --data ontonotes/",
    ),
    "relation": Entry(
        "which relation is between two marked spans: F1 by the rules of TACRED, SemEval-2010 task 8 and others",
        "SemEval-2010 task 8's file, TACRED's JSON, JSON lines with text and label as SciBERT's authors packed them, or"
        " a folder of these: two of one name but for train and dev are one data set with a split, any other is divided"
        " by texts",
        RelationOptions,
        "spanbert_ext.evaluate.tasks.relation.task",
        "RelationTask",
        "relation spanbert-out bert-base-cased --data tacred/",
    ),
    "glue": Entry(
        "sentence classification, the tasks of GLUE with their own metrics",
        "a task's folder with train.tsv and dev.tsv as GLUE names them (CoLA, MRPC, ...), or the folder of several",
        GlueOptions,
        "spanbert_ext.evaluate.tasks.glue.task",
        "GlueBenchmark",
        "glue spanbert-out bert-base-cased --data glue/MRPC",
    ),
    "probe": Entry(
        "what a frozen encoder's states of span ends and boundaries tell: coreference, relations, mentions, spans",
        "a folder with documents in CoNLL format, GAP's examples or relations (see coref and relation), or one such"
        " file",
        ProbeOptions,
        "spanbert_ext.evaluate.tasks.probe.task",
        "ProbeTask",
        "probe spanbert-out bert-base-cased --data downstream/ --seeds 10",
    ),
}
