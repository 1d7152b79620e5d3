# SPDX-License-Identifier: Apache-2.0
"""Relations between two spans of a text: SemEval-2010 task 8, TACRED, and texts with marked spans (ChemProt,
SciERC)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.json_values import Value
from spanbert_ext.evaluate.data.sources import parse_json, read_json, read_lines
from spanbert_ext.evaluate.data.tokens import join_tokens

Span = tuple[int, int]  # characters of the text, the second excluded


@dataclass(frozen=True, slots=True)
class Relation:
    """A text without markers, its two spans and the relation's label.

    `head` is the relation's first argument (e1, subj, `[[ ]]`), `tail` its second (e2, obj, `<< >>`); either may come
    first in the text, and one may lie inside the other."""

    id: str
    text: str
    head: Span
    tail: Span
    label: str
    group: str  # relations of one text or document share it: no independent items
    head_type: str | None = None
    tail_type: str | None = None


SEMEVAL_RELATIONS = (
    "Cause-Effect",
    "Component-Whole",
    "Content-Container",
    "Entity-Destination",
    "Entity-Origin",
    "Instrument-Agency",
    "Member-Collection",
    "Message-Topic",
    "Product-Producer",
)
SEMEVAL_LABELS = (
    "Other",
    *(f"{name}({order})" for name in SEMEVAL_RELATIONS for order in ("e1,e2", "e2,e1")),
)
TACRED_NEGATIVE = "no_relation"


def _known_label(label: str, labels: Sequence[str] | None, error_at: Value) -> str:
    """`label`, which must be one of `labels` where those are known."""
    if labels is None or label in labels:
        return label
    meant = difflib.get_close_matches(label, labels, 1)
    advice = f"perhaps {meant[0]!r} is meant" if meant else f"expected one of {', '.join(labels)}"
    raise error_at.error(f"the label {label!r} is unknown; {advice}")


def _unmarked(text: str, markers: Sequence[tuple[str, str]], place: Value) -> tuple[str, list[Span]]:
    """The text without its markers, and the span of each pair of them: from its only opening marker to the first
    closing one after that. Raises `DataError` at `place` where a marker is missing or a span is blank."""
    cuts = []  # begin, end and kind of every marker
    for opening, closing in markers:
        if text.count(opening) != 1:
            raise place.error(f"has {opening.strip()!r} {text.count(opening)} times; expected once")
        start = text.index(opening)
        end = text.find(closing, start + len(opening))
        if end < 0:
            raise place.error(f"has no {closing.strip()!r} after {opening.strip()!r}")
        cuts += [(start, start + len(opening)), (end, end + len(closing))]
    removed = sorted(cuts)
    if any(begin < previous_end for (_, previous_end), (begin, _) in zip(removed, removed[1:], strict=False)):
        raise place.error("has markers that overlap")

    def moved(position: int) -> int:
        return position - sum(end - begin for begin, end in removed if end <= position)

    spans = [(moved(cuts[2 * pair][1]), moved(cuts[2 * pair + 1][0])) for pair in range(len(markers))]
    for begin, end in reversed(removed):
        text = text[:begin] + text[end:]
    for (opening, _), (start, end) in zip(markers, spans, strict=True):
        if not text[start:end].strip():
            raise place.error(f"marks an empty span by {opening.strip()!r}")
    return text, spans


def read_semeval(path: Path | str) -> list[Relation]:
    """The sentences of a SemEval-2010 task 8 file (TRAIN_FILE.TXT, packed or not). The text is what stands between the
    quotation marks, without the tags. Raises `DataError` with file and line for a line that is no sentence, tags that
    are missing, an unknown label, a number that occurs twice, or no sentence at all."""
    relations: dict[str, Relation] = {}
    lines = read_lines(path)
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if not line.strip() or line.startswith("Comment:"):
            continue
        place = Value(path, "", None, number)
        sentence = re.fullmatch(r'(\d+)\t"(.*)"\s*', line)
        if sentence is None:
            raise place.error('expected a number, a tab and a sentence in quotation marks: 7\t"The ..."')
        if number == len(lines) or not lines[number].strip():
            raise place.error("the sentence has no label in the next line")
        number += 1
        label = _known_label(lines[number - 1].strip(), SEMEVAL_LABELS, Value(path, "", None, number))
        text, (head, tail) = _unmarked(sentence[2], (("<e1>", "</e1>"), ("<e2>", "</e2>")), place)
        if sentence[1] in relations:
            raise place.error(f"{sentence[1]} is the number of another sentence too")
        relations[sentence[1]] = Relation(sentence[1], text, head, tail, label, group=sentence[1])
    if not relations:
        raise DataError(path, "holds no sentence")
    return list(relations.values())


def read_tacred(path: Path | str, labels: Sequence[str] | None = None) -> list[Relation]:
    """The examples of a TACRED (Re-TACRED) JSON file. The text is the tokens joined by blanks; types are given, the
    group is the document. Raises `DataError` with the JSON path for a missing key, a span that the tokens do not have,
    a label that is not one of `labels`, an id that occurs twice, or no example at all."""
    relations: dict[str, Relation] = {}
    for value in Value(path, "", read_json(path)).items():
        tokens = [token.string() for token in value["token"].items()]
        text, places = join_tokens(tokens)
        spans = {}
        for name in ("subj", "obj"):
            first, last = value[f"{name}_start"].integer(), value[f"{name}_end"].integer()
            if not 0 <= first <= last < len(tokens):
                raise value[f"{name}_end"].error(f"{first} to {last} is no span of {len(tokens)} tokens")
            spans[name] = places[first][0], places[last][1]
            if not text[slice(*spans[name])].strip():
                raise value[f"{name}_start"].error(f"{first} to {last} are tokens without characters")
        id_ = value["id"].identifier()
        if id_ in relations:
            raise value["id"].error(f"{id_!r} is the id of another example too")
        relations[id_] = Relation(
            id_,
            text,
            spans["subj"],
            spans["obj"],
            _known_label(value["relation"].string(), labels, value["relation"]),
            group=value["docid"].identifier() if value.has("docid") else id_,
            head_type=value["subj_type"].string(),
            tail_type=value["obj_type"].string(),
        )
    if not relations:
        raise DataError(path, "holds no example")
    return list(relations.values())


def read_marked(path: Path | str, labels: Sequence[str] | None = None) -> list[Relation]:
    """The examples of JSON lines with `text` and `label`, whose spans are marked `[[ head ]]` and `<< tail >>`
    (ChemProt and SciERC as SciBERT's authors packed them). The id is the line's number, the group that of the first
    line with the same text. Raises `DataError` with file and line for a line that is no such object, markers that are
    missing, a label that is not one of `labels`, or no example at all."""
    relations, first_of_text = [], {}
    for number, line in enumerate(read_lines(path), 1):
        value = Value(path, "", parse_json(line, path, number), number)
        markers = (("[[ ", " ]]"), ("<< ", " >>"))
        text, (head, tail) = _unmarked(value["text"].string(), markers, value["text"])
        label = _known_label(value["label"].string(), labels, value["label"])
        group = first_of_text.setdefault(text, str(number))
        relations.append(Relation(str(number), text, head, tail, label, group))
    if not relations:
        raise DataError(path, "holds no example")
    return relations
