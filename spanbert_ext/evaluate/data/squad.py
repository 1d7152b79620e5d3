"""Extractive questions in SQuAD's JSON format, version 1.1 and 2.0 (PolicyQA, MRQA's converted sets)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Answer(NamedTuple):
    """A span of the context: `context[start : start + len(text)] == text`."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Question:
    """A question on a context; `answers` of several annotators in their order, none where it has no answer."""

    id: str
    article: str  # the group that cross-validation and resampling keep together
    context: str
    question: str
    answers: tuple[Answer, ...]

    @property
    def answerable(self) -> bool:
        return bool(self.answers)


def read_squad(path: Path | str) -> list[Question]:
    """The questions of a SQuAD file (.json, packed or not), or of every such file below a folder.

    Raises `DataError` with the JSON path for a missing key, an answer that does not stand where it should, a question
    that is neither impossible nor answered, or an id that occurs twice."""
    raise NotImplementedError
