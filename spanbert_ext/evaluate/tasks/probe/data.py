# SPDX-License-Identifier: Apache-2.0
"""Which data of a folder make which data sets of probes, and how each is scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spanbert_ext.evaluate.data.conll import ARCHIVES, SUFFIXES
from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.gap import read_gap
from spanbert_ext.evaluate.data.sources import files_below, plain_name, read_lines
from spanbert_ext.evaluate.scores.classes import accuracy, class_row, counts
from spanbert_ext.evaluate.scores.gap import GAP_METRICS, gap_row
from spanbert_ext.evaluate.scores.metric import Metric, SumMetric, f1, ratio
from spanbert_ext.evaluate.tasks.coref.files import CorefData, find_coref
from spanbert_ext.evaluate.tasks.form import DataSet, EvaluationError
from spanbert_ext.evaluate.tasks.probe.items import (
    GAP_ANSWERS,
    MOST_WORDS,
    Item,
    chosen,
    coreference_items,
    gap_items,
    known_words,
    length_items,
    mention_items,
    relation_items,
    word_items,
)
from spanbert_ext.evaluate.tasks.probe.options import ProbeOptions
from spanbert_ext.evaluate.tasks.relation.files import (
    RelationData,
    find_relations,
    reader_of,
    relation_metrics,
)

_GAP_COLUMNS = "ID\tText\tPronoun\t"


@dataclass(frozen=True)
class ProbeData(DataSet):
    """Items of one probe; the first `split` are those to train on where the data has a split, 0 where it has none.
    classes: how many answers there are. scoring: which scores it has. labels: of relations. several: an item may have
    more than one answer. pairs: states are compared, those of the first half of an item's reads with those of the
    second. alternatives: an item's reads are those of so many pairs, of which one is right at most: the answer is its
    place, or their number where none is."""

    items: tuple[Item, ...]
    split: int
    classes: int
    scoring: str
    labels: tuple[str, ...] = ()
    several: bool = False
    pairs: bool = False
    alternatives: int = 1

    def metrics(self) -> dict[str, Metric]:
        """Made when they are asked for: data travels to other processes, functions do not."""
        if self.scoring == "relations":
            return relation_metrics(self.labels)
        return {metric.name: metric for metric in _SCORES[self.scoring]}


def find_probes(path: Path, options: ProbeOptions) -> list[ProbeData]:
    """Every probe that is asked for and that the data has items of. Raises `DataError` and `EvaluationError`."""
    found = [data for data in _all(path, options) if data.items]
    if not found:
        if options.probe != "all":
            raise EvaluationError(f"--probe is {options.probe}, but {path} has nothing to ask it on")
        raise DataError(
            path,
            "holds nothing to probe on: expected documents in CoNLL format, GAP's examples, or relations",
        )
    return found


def _all(path: Path, options: ProbeOptions) -> Iterator[ProbeData]:
    def asked(*probes: str) -> bool:
        return options.probe == "all" or options.probe in probes

    if asked(*_OF_DOCUMENTS, "words") and _files(path, (*ARCHIVES, *SUFFIXES)):
        for documents in find_coref(path, singletons=True):
            yield from _of_documents(documents, [p for p in (*_OF_DOCUMENTS, "words") if asked(p)], options)
    if asked("coreference"):
        files = tuple(file for file in _files(path, (".tsv",)) if path.is_file() or _is_gap(file))
        if files:
            items = tuple(chosen(_gap_items(files), options.max_items))
            yield ProbeData("coreference, GAP", files, items, 0, 3, "gap", pairs=True, alternatives=2)
    if asked("relations"):
        files = _files(path, (".json", ".jsonl", ".txt"))
        if any(reader_of(file, certain=path.is_file()) for file in files):
            for relations in find_relations(path):
                yield _of_relations(relations, options)


def _files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files of a folder with one of the suffixes, or the file itself if it has one; none where there are none."""
    if path.is_file():
        return [path] if plain_name(path).lower().endswith(suffixes) else []
    return files_below(path, suffixes)


def _is_gap(file: Path) -> bool:
    return "".join(read_lines(file)[:1]).startswith(_GAP_COLUMNS)


def _gap_items(files: Sequence[Path]) -> list[Item]:
    items: dict[str, Item] = {}
    for file in files:
        for item in gap_items(read_gap(file)):
            if item.id in items:
                raise DataError(file, f"the example {item.id!r} is in another file too")
            items[item.id] = item
    return list(items.values())


def _of_documents(data: CorefData, probes: Sequence[str], options: ProbeOptions) -> Iterator[ProbeData]:
    train, test = data.documents[: data.split], data.documents[data.split :]
    for probe in probes:
        name = f"{probe}, {data.name}"
        if probe == "words":
            known = known_words(data.documents)
            parts = [list(word_items(part, known, options.passage_words)) for part in (train, test)]
            yield _data(name, data, *parts, len(known), "found", options, several=True)
            continue
        make, classes, scoring, pairs = _OF_DOCUMENTS[probe]
        parts = [list(make(part, options.passage_words)) for part in (train, test)]
        yield _data(name, data, *parts, classes, scoring, options, pairs=pairs)


def _of_relations(data: RelationData, options: ProbeOptions) -> ProbeData:
    parts = [
        list(relation_items(((part, relation) for relation in relations), data.labels))
        for part, relations in (
            ("train ", data.relations[: data.split]),
            ("", data.relations[data.split :]),
        )
    ]
    name, labels = f"relations, {data.name}", data.labels
    return _data(name, data, *parts, len(labels), "relations", options, labels=labels)


def _data(
    name: str,
    source: CorefData | RelationData,
    train: Sequence[Item],
    test: Sequence[Item],
    classes: int,
    scoring: str,
    options: ProbeOptions,
    **kind: Any,
) -> ProbeData:
    """source: what the items were made of. No items where there are none to test, or of data with a split none to train
    on, which is not divided in another way."""
    train, test = chosen(train, options.max_items), chosen(test, options.max_items)
    items = (*train, *test) if test and (train or not source.split) else ()
    return ProbeData(name, source.files, items, len(train), classes, scoring, **kind)


# --- Scores ------------------------------------------------------------------------------------------------------


def row_of(data: ProbeData, item: Item, best: Sequence[int]) -> tuple[float, ...]:
    """The row of an item, whose likeliest answers are `best`: of GAP gap_row's; of several answers, as many of which
    count as are right, how many are right and how many there are; else class_row's."""
    if data.scoring == "gap":
        return gap_row(GAP_ANSWERS[best[0]], GAP_ANSWERS[item.answer[0]], item.gender)
    if data.several:
        right = len(set(best[: len(item.answer)]) & set(item.answer))
        return float(right), float(len(item.answer))
    return class_row(best[0], item.answer[0])


_YES_F1 = SumMetric("F1", lambda rows: counts([1])(rows), lambda sums: f1(*np.moveaxis(sums, -1, 0)))
_FOUND = SumMetric(
    "words found",
    lambda rows: rows,
    lambda sums: ratio(sums[..., 0], sums[..., 1]),
    sizes=lambda rows: rows[:, 1],
)
_SCORES = {
    "yes": (_YES_F1, accuracy()),
    "gap": tuple(GAP_METRICS.values()),
    "right": (accuracy(),),
    "found": (_FOUND,),
}

# Of documents: what makes the items, how many answers there are, the scoring, and whether states are compared.
_OF_DOCUMENTS = {
    "coreference": (coreference_items, 2, "yes", True),
    "mentions": (mention_items, 2, "yes", False),
    "length": (length_items, MOST_WORDS, "right", False),
}
