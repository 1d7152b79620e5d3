# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are which data set of relations, and the labels and metrics of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.relations import (
    SEMEVAL_LABELS,
    TACRED_NEGATIVE,
    Relation,
    read_marked,
    read_semeval,
    read_tacred,
)
from spanbert_ext.evaluate.data.sources import find_files, read_text
from spanbert_ext.evaluate.scores.classes import macro_f1, micro_f1, semeval_macro_f1
from spanbert_ext.evaluate.scores.metric import Metric
from spanbert_ext.evaluate.tasks.form import DataSet
from spanbert_ext.evaluate.tasks.parts import Parts, group_parts

_SUFFIXES = (".json", ".jsonl", ".txt")


@dataclass(frozen=True)
class RelationData(DataSet):
    """Relations; the first `split` are those to train on where the data has a split, 0 where it has none. labels: in
    the order of their numbers."""

    relations: tuple[Relation, ...]
    split: int
    labels: tuple[str, ...]

    @property
    def has_types(self) -> bool:
        return all(relation.head_type and relation.tail_type for relation in self.relations)


def negative_of(labels: Sequence[str]) -> str | None:
    """The label that says that there is no relation."""
    return next((label for label in (TACRED_NEGATIVE, "Other") if label in labels), None)


def relation_metrics(labels: Sequence[str]) -> dict[str, Metric]:
    """F1 over all relations but the negative label's; of SemEval's labels its official score too, and of labels without
    a negative one the mean over labels."""
    negative = negative_of(labels)
    found = [micro_f1(labels, negative)]
    if tuple(labels) == SEMEVAL_LABELS:
        found.append(semeval_macro_f1(labels))
    elif negative is None:
        found.append(macro_f1(labels))
    return {metric.name: metric for metric in found}


def find_relations(path: Path) -> list[RelationData]:
    """Every data set: a file, or two of one folder whose names differ in "train" and "dev" alone. Files of a folder
    that hold no relations (a README.txt) are left out. Raises `DataError`."""
    files = find_files(path, _SUFFIXES)
    kinds = {file: reader_of(file, certain=path.is_file()) for file in files}
    known = [file for file in files if kinds[file] is not None]
    if not known:
        raise DataError(
            path,
            "holds no relations: expected SemEval-2010 task 8's file, TACRED's JSON, or JSON lines with text and label",
        )
    return [_read(parts, kinds) for parts in _semeval_parts(group_parts(known))]


Read = Callable[..., list[Relation]]


def reader_of(file: Path, *, certain: bool) -> Read | None:
    """What reads a file that begins so; None where no reader does. certain: that it should hold relations, so that
    JSON lines without their keys are an error of theirs."""
    text = read_text(file).lstrip()
    begin = text.partition("\n")[0]
    if begin.startswith("["):
        return read_tacred if certain or '"relation":' in text else None
    if begin.startswith("{"):
        return read_marked if certain or ('"text":' in begin and '"label":' in begin) else None
    number, tab, rest = begin.partition("\t")
    return read_semeval if tab and number.isdigit() and rest.startswith('"') else None


def _semeval_parts(found: list[Parts]) -> list[Parts]:
    """SemEval's own names of its two files, TRAIN_FILE.TXT and TEST_FILE_FULL.TXT, say that they are one data set."""
    by_name = {parts.name.upper(): parts for parts in found}
    train, test = by_name.get("TRAIN_FILE"), by_name.get("TEST_FILE_FULL")
    if train is None:
        return found
    files = [*train.files, *(test.files if test else ())]
    named = Parts("SemEval-2010-8", *(files if test else (files[0], None)))
    return [named, *(parts for parts in found if parts not in (train, test))]


def _read(parts: Parts, kinds: dict[Path, Read]) -> RelationData:
    first, *others = parts.files
    read = kinds[first]
    if any(kinds[file] is not read for file in others):
        raise DataError(others[0], f"has another format than {first.name}")
    if read is read_semeval:
        relations: list[list[Relation]] = [read_semeval(file) for file in parts.files]
        labels: Sequence[str] = SEMEVAL_LABELS
    else:
        relations = [read(first)]
        labels = sorted({relation.label for relation in relations[0]})
        relations += [read(file, labels) for file in others]  # no label that was never trained
    if len(labels) < 2:
        raise DataError(first, f"has {labels[0]!r} as its only label; expected two at least")
    if read is read_tacred and others:
        both = {relation.id for relation in relations[0]} & {relation.id for relation in relations[1]}
        if both:
            raise DataError(others[0], f"{min(both)!r} is also in {first.name}")
    split = len(relations[0]) if parts.has_split else 0
    every = tuple(relation for part in relations for relation in part)
    return RelationData(parts.name, parts.files, every, split, tuple(labels))
