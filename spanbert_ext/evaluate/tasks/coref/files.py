# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder are which data set of coreference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from spanbert_ext.evaluate.data.conll import (
    ARCHIVES,
    SUFFIXES,
    CorefDocument,
    is_archive,
    read_conll,
    without_singletons,
)
from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.sources import find_files, plain_name
from spanbert_ext.evaluate.tasks.form import DataSet
from spanbert_ext.evaluate.tasks.parts import group_parts, part_of


@dataclass(frozen=True)
class CorefData(DataSet):
    """Documents, without singletons unless a task asks for them; the first `split` are those to train on where the data
    has a split, 0 where it has none."""

    documents: tuple[CorefDocument, ...]
    split: int


def find_coref(path: Path, *, singletons: bool = False) -> list[CorefData]:
    """Every data set: a tar archive, two whose names differ in "train" and "dev" alone, and all *.conll files of a
    folder together. The folder's have a split where every file, or a folder on the way to it, says whether it is for
    training or development. Raises `DataError`."""
    found = []
    if path.is_file() and not is_archive(path):
        found.append(_data(plain_name(path).rpartition(".")[0], [path], ()))
    else:
        files = find_files(path, (*ARCHIVES, *SUFFIXES))
        archives = [file for file in files if is_archive(file)]
        for parts in group_parts(archives):
            if parts.has_split:
                found.append(_data(parts.name, [parts.dev], [parts.train]))
            else:
                found.append(_data(parts.name, parts.files, ()))
        if loose := [file for file in files if file not in archives]:
            said = [_said(file.relative_to(path)) for file in loose]
            train = [file for file, part in zip(loose, said, strict=True) if part == "train"]
            test = [file for file in loose if file not in train]
            has_split = None not in said and train and test
            found.append(_data(path.resolve().name, test if has_split else loose, train if has_split else ()))
    return found if singletons else [_without_singletons(data) for data in found]


def _said(path: Path) -> str | None:
    """Which part a relative path belongs to: as its last folder or name that tells one says."""
    names = [*path.parent.parts, plain_name(path).rpartition(".")[0]]
    return next((part for name in reversed(names) if (part := part_of(name))), None)


def _data(name: str, files: Iterable[Path], train: Iterable[Path]) -> CorefData:
    trained, tested = list(_documents(train)), list(_documents(files))
    names: dict[str, Path] = {}
    for document, file in (*trained, *tested):
        if document.name in names:
            raise DataError(file, f"the document {document.name!r} is also in {names[document.name]}")
        names[document.name] = file
    documents = tuple(document for document, _ in (*trained, *tested))
    return CorefData(name, (*train, *files), documents, len(trained))


def _documents(files: Iterable[Path]) -> Iterator[tuple[CorefDocument, Path]]:
    for file in files:
        for document in read_conll(file):
            yield document, file


def _without_singletons(data: CorefData) -> CorefData:
    kept = tuple(without_singletons(document) for document in data.documents)
    if not any(document.clusters for document in kept):
        raise DataError(data.files[0], f"{data.name} has no cluster of two mentions or more")
    return CorefData(data.name, data.files, kept, data.split)
