# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are which data set of question answering."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.qamr import read_qamr
from spanbert_ext.evaluate.data.sources import files_below, find_file, find_files, plain_name
from spanbert_ext.evaluate.data.squad import Question, read_squad
from spanbert_ext.evaluate.tasks.parts import group_parts

_SENTENCES = "wiki-sentences"  # QAMR's file of sentences, which stands beside its questions

Found = tuple[str, tuple[Path, ...], list[Question], int]


def find_sets(path: Path) -> Iterator[Found]:
    """Every data set: its name, its files, its questions, and how many of them are for training.

    A file is a data set, to be divided by cross-validation; two whose names differ in "train" and "dev" alone are one.
    QAMR's questions (.tsv) are read where its sentences stand beside them. Raises `DataError`."""
    if path.is_file():
        is_qamr = plain_name(path).lower().endswith(".tsv")
        yield from _grouped([path], _sentences_beside(path) if is_qamr else None)
        return
    folders = sorted({file.parent for file in files_below(path, [".tsv"])})
    with_sentences = {
        folder: file for folder in folders if (file := find_file(folder, [_SENTENCES], [".tsv"]))
    }
    for folder, sentences in with_sentences.items():
        yield from _grouped([file for file in find_files(folder, [".tsv"]) if file != sentences], sentences)
    if not with_sentences or files_below(path, [".json"]):
        yield from _grouped(find_files(path, [".json"]), None)


def _sentences_beside(path: Path) -> Path:
    sentences = find_file(path.parent, [_SENTENCES], [".tsv"])
    if sentences is None:
        raise DataError(
            path, f"has questions on sentences that are not there: expected {_SENTENCES}.tsv beside it"
        )
    return sentences


def _grouped(files: Iterable[Path], sentences: Path | None) -> Iterator[Found]:
    """sentences: of QAMR; None of files in SQuAD's format."""

    def read(file: Path) -> list[Question]:
        return read_squad(file) if sentences is None else read_qamr(file, sentences)

    shared = () if sentences is None else (sentences,)
    for parts in group_parts(files):
        if not parts.has_split:
            yield parts.name, (*parts.files, *shared), read(*parts.files), 0
            continue
        train, dev = read(parts.train), read(parts.dev)
        both = {question.id for question in train} & {question.id for question in dev}
        if both:
            raise DataError(parts.dev, f"question {min(both)!r} is also in {parts.train.name}")
        yield parts.name, (*parts.files, *shared), [*train, *dev], len(train)
