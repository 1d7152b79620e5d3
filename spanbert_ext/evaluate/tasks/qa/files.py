"""Which files of a folder are which data set of question answering."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.qamr import read_qamr
from spanbert_ext.evaluate.data.sources import find_file, find_files, plain_name
from spanbert_ext.evaluate.data.squad import Question, read_squad

_PART = re.compile(r"(?:^|[-_.])(train|dev|validation)(?=$|[-_.])", re.IGNORECASE)
_SENTENCES = "wiki-sentences"  # QAMR's file of sentences, which stands beside its questions

Found = tuple[str, tuple[Path, ...], list[Question], int]


def find_sets(path: Path) -> Iterator[Found]:
    """Every data set: its name, its files, its questions, and how many of them are for training.

    A file is a data set, to be divided by cross-validation; two whose names differ in "train" and "dev" alone are one.
    QAMR's questions (.tsv) are read where its sentences stand beside them. Raises `DataError`."""
    if path.is_file() and path.name.partition(".")[2].startswith("tsv"):
        yield from _grouped([path], _sentences_beside(path))
        return
    folders = {file.parent for file in path.rglob("*")} if path.is_dir() else set()
    with_sentences = {
        folder: file for folder in folders if (file := find_file(folder, [_SENTENCES], [".tsv"]))
    }
    for folder, sentences in sorted(with_sentences.items()):
        yield from _grouped([file for file in find_files(folder, [".tsv"]) if file != sentences], sentences)
    if not with_sentences or any(path.rglob("*.json*")):
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
    found: dict[str, dict[str, Path]] = {}
    for file in files:
        stem = plain_name(file).rpartition(".")[0]
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
        name = (
            key.rpartition("/")[2] or Path(key).name
        )  # of files called only "train" and "dev" their folder's
        if len(parts) == 1:
            (file,) = parts.values()
            whole = plain_name(file).rpartition(".")[0] if key.rpartition("/")[2] else name
            yield whole, (file, *shared), read(file), 0
            continue
        train, dev = read(parts["train"]), read(parts["dev"])
        both = {question.id for question in train} & {question.id for question in dev}
        if both:
            raise DataError(parts["dev"], f"question {min(both)!r} is also in {parts['train'].name}")
        yield name, (parts["train"], parts["dev"], *shared), [*train, *dev], len(train)
