"""Coreference documents in CoNLL format: CoNLL-2012 (OntoNotes), OntoGUM, LitBank."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Mention = tuple[int, int]  # first and last token of a document, both included


@dataclass(frozen=True, slots=True)
class CorefDocument:
    """A document's sentences of words, and its clusters over the words of the whole document.

    Mentions of a cluster are in the order of the text, clusters in that of their first mentions; a cluster of one
    mention is a singleton."""

    name: str
    genre: str
    sentences: tuple[tuple[str, ...], ...]
    clusters: tuple[tuple[Mention, ...], ...]

    @property
    def words(self) -> list[str]:
        """The words of all sentences."""
        return [word for sentence in self.sentences for word in sentence]


def without_singletons(document: CorefDocument) -> CorefDocument:
    """The document without clusters of one mention, as OntoNotes annotates."""
    raise NotImplementedError


def read_conll(path: Path | str) -> list[CorefDocument]:
    """The documents of a file (.conll, ..., packed or not), of every such file below a folder, or of every such member
    of a .tar.xz, sorted by file name. Raises `DataError` with file and line."""
    raise NotImplementedError
