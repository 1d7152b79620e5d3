# SPDX-License-Identifier: Apache-2.0
"""Extractive questions in SQuAD's JSON format, version 1.1 and 2.0, which PolicyQA has too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.json_values import Value
from spanbert_ext.evaluate.data.sources import find_files, read_json


class Answer(NamedTuple):
    """A span of the context: `context[start : start + len(text)] == text`."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Question:
    """A question on a context; `answers` of several annotators in their order, none where it has no answer."""

    id: str
    article: (
        str  # the group that cross-validation and resampling keep together; its place where it has no title
    )
    context: str
    question: str
    answers: tuple[Answer, ...]

    @property
    def answerable(self) -> bool:
        return bool(self.answers)


def _answer(value: Value, context: str) -> Answer:
    text, start = value["text"].string(), value["answer_start"].integer()
    if not text.strip():
        raise value["text"].error("is empty")
    if start < 0 or context[start : start + len(text)] != text:
        found = context[max(start, 0) : max(start, 0) + len(text)]
        at = context.find(text)
        advice = f"the context has it at {at}" if at >= 0 else "the context does not have it"
        raise value["answer_start"].error(f"at {start} stands {found!r}, not the answer {text!r}; {advice}")
    return Answer(text, start)


def _question(value: Value, article: str, context: str) -> Question:
    answers = tuple(_answer(answer, context) for answer in value["answers"].items())
    impossible = value["is_impossible"].boolean() if value.has("is_impossible") else False
    if impossible and answers:
        raise value.error("is_impossible is true, but there are answers")
    if not impossible and not answers:
        raise value.error("has no answer, and is_impossible is not true")
    return Question(value["id"].identifier(), article, context, value["question"].string(), answers)


def _questions(path: Path) -> Iterator[tuple[Question, Value]]:
    for article in Value(path, "", read_json(path))["data"].items():
        title = article["title"].string().strip() if article.has("title") else ""
        group = title or f"{path.name} {article.where}"  # the official scorers need no title either
        for paragraph in article["paragraphs"].items():
            context = paragraph["context"].string()
            for value in paragraph["qas"].items():
                yield _question(value, group, context), value


def read_squad(path: Path | str) -> list[Question]:
    """The questions of a SQuAD file (.json, packed or not), or of every such file below a folder.

    Raises `DataError` with the JSON path for a missing key, an answer that does not stand where it should, a question
    that is neither impossible nor answered, an id that occurs twice, or no question at all."""
    questions: dict[str, Question] = {}
    for file in find_files(path, [".json"]):
        for question, value in _questions(file):
            if question.id in questions:
                raise value["id"].error(f"{question.id!r} is the id of another question too")
            questions[question.id] = question
    if not questions:
        raise DataError(path, "holds no question")
    return list(questions.values())
