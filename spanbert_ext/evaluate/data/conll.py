# SPDX-License-Identifier: Apache-2.0
"""Coreference documents in CoNLL format: CoNLL-2012 (OntoNotes), OntoGUM, LitBank."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.sources import find_files, plain_name, read_members, read_text

Mention = tuple[int, int]  # first and last token of a document, both included

SUFFIXES = (".conll", "_conll")  # CoNLL-2012's own files are called .v4_gold_conll
ARCHIVES = (".tar", ".tgz")
# The name may stand in parentheses, or be missing.
_BEGIN = re.compile(
    r"#\s*begin document\b\s*(?:\((?P<enclosed>.*)\)|(?P<bare>.*?))\s*(?:;\s*(?:part\s+(?P<part>[0-9]{1,9}))?\s*)?"
)
_END = re.compile(r"#\s*end document\b.*")
_BRACKET = re.compile(r"\((\d+)\)|\((\d+)|(\d+)\)")  # a mention of one word, one that opens, one that closes
_NOTHING = ("", "_", "-", "*")  # how files say that a word opens and closes no mention
_ESCAPED = {"/.": ".", "/?": "?", "/-": "-"}  # OntoNotes' web texts and conversations


@dataclass(frozen=True, slots=True)
class CorefDocument:
    """A document's sentences of words, and its clusters over the words of the whole document.

    Mentions of a cluster are in the order of the text, clusters in that of their first mentions; a cluster of one
    mention is a singleton. No mention is in two clusters: where a file has one so (seven in OntoGUM), it stays in the
    larger, of equal ones in that which begins first. A file without empty lines (OntoGUM) says nothing about
    sentences: the document is one."""

    name: str
    genre: str  # of OntoNotes ("bn") and GUM ("academic"); "" elsewhere
    sentences: tuple[tuple[str, ...], ...]
    clusters: tuple[tuple[Mention, ...], ...]
    part: int = 0

    @property
    def group(self) -> str:
        """The document without its part: CoNLL-2012's annotators cut long documents, whose parts are no independent
        items."""
        return self.name.removesuffix(_part(self.part))

    @property
    def words(self) -> list[str]:
        """The words of all sentences."""
        return [word for sentence in self.sentences for word in sentence]


def _part(number: int) -> str:
    return f" part {number}" if number else ""


def without_singletons(document: CorefDocument) -> CorefDocument:
    """The document without clusters of one mention, as OntoNotes annotates."""
    kept = tuple(cluster for cluster in document.clusters if len(cluster) > 1)
    return replace(document, clusters=kept)


@dataclass(slots=True)
class _Document:
    """A document while its lines are read."""

    name: str
    begin: int  # line
    part: int = 0
    sentences: list[list[str]] = field(default_factory=lambda: [[]])
    words: int = 0
    open: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))  # word, line
    clusters: dict[str, set[Mention]] = field(default_factory=lambda: defaultdict(set))

    def mark(self, coreference: str, line: int, file: str) -> None:
        """What the last column of the next word opens and closes: `(3|(4)|2)`, in OntoGUM without the bars. Mentions of
        one cluster nest."""
        if coreference in _NOTHING:
            return
        if _BRACKET.sub("", coreference).strip("|"):
            message = f"the last column is {coreference!r}; expected brackets and numbers, as (3|(4)|2)"
            raise DataError(file, message, line=line)
        for alone, opened, closed in _BRACKET.findall(coreference):
            if alone:
                self.clusters[alone].add((self.words, self.words))
            elif opened:
                self.open[opened].append((self.words, line))
            elif not self.open[closed]:
                message = f"closes a mention of cluster {closed} that is not open"
                raise DataError(file, message, line=line)
            else:
                self.clusters[closed].add((self.open[closed].pop()[0], self.words))

    def finished(self, file: str) -> CorefDocument:
        for cluster, mentions in self.open.items():
            if mentions:
                message = f"a mention of cluster {cluster} is opened and not closed in its document"
                raise DataError(file, message, line=mentions[-1][1])
        if not self.words:
            raise DataError(file, f"the document {self.name!r} has no words", line=self.begin)
        taken: set[Mention] = set()
        clusters = []
        for mentions in sorted(self.clusters.values(), key=lambda mentions: (-len(mentions), min(mentions))):
            if kept := mentions - taken:
                clusters.append(tuple(sorted(kept)))
            taken |= kept
        sentences = tuple(tuple(sentence) for sentence in self.sentences if sentence)
        return CorefDocument(self.name, _genre(self.name), sentences, tuple(sorted(clusters)), self.part)


def _genre(name: str) -> str:
    if found := re.match(r"(\w\w)/", name):  # bn/abc/00/abc_0001
        return found[1]
    found = re.match(r"GUM_([a-z]+)_", name)
    return found[1] if found else ""


def _word(line: str, number: int, file: str) -> tuple[str, str]:
    """A line's word and coreference column."""
    columns = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))  # a word may hold U+00A0
    if len(columns) != 3 and len(columns) < 5:
        message = f"has {len(columns)} columns; expected 3 (number, word, coreference) or CoNLL-2012's"
        raise DataError(file, message, line=number)
    word = columns[1] if len(columns) == 3 else columns[3]
    word, coreference = word.strip(), columns[-1].strip()
    if not word and coreference not in _NOTHING:
        raise DataError(file, f"the word is empty, but its coreference is {coreference!r}", line=number)
    return _ESCAPED.get(word, word), coreference


def _documents(text: str, file: str) -> Iterator[tuple[CorefDocument, int]]:
    """The documents of one file, and the line where each begins. One without a name has that of the file; where there
    are several of them, with their numbers."""
    document: _Document | None = None
    unnamed = 0
    for number, line in enumerate(text.split("\n"), 1):
        if found := _BEGIN.fullmatch(line):
            if document is not None:
                message = f"a document begins inside the one that begins in line {document.begin}"
                raise DataError(file, message, line=number)
            name = found["enclosed"] or found["bare"]
            if not name:
                unnamed += 1
                name = plain_name(file).rpartition(".")[0] or file
                name += f" document {unnamed}" if unnamed > 1 else ""
            part = int(found["part"] or 0)
            document = _Document(name + _part(part), number, part)
        elif _END.fullmatch(line):
            if document is None:
                raise DataError(file, "a document ends that has not begun", line=number)
            yield document.finished(file), document.begin
            document = None
        elif line.startswith("#"):
            continue  # a comment: words' lines begin with a number or the document's name
        elif not line.strip():
            if document is not None and document.sentences[-1]:
                document.sentences.append([])
        elif document is None:
            raise DataError(file, "stands before any '#begin document'", line=number)
        else:
            word, coreference = _word(line, number, file)
            if not word:  # OntoGUM has one: it would be no token of any tokenizer
                continue
            document.mark(coreference, number, file)
            document.sentences[-1].append(word)
            document.words += 1
    if document is not None:
        message = f"the document {document.name!r} has no '#end document'"
        raise DataError(file, message, line=document.begin)


def is_archive(path: Path) -> bool:
    """Whether a file is one of documents packed by tar."""
    return plain_name(path).lower().endswith(ARCHIVES)


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    if is_archive(path):
        yield from read_members(path, SUFFIXES)
        return
    for file in find_files(path, SUFFIXES):
        yield str(file), read_text(file)


def read_conll(path: Path | str) -> list[CorefDocument]:
    """The documents of a file, of every file *.conll or *_conll (packed or not) below a folder, or of every such member
    of a .tar, .tar.xz or .tar.gz, sorted by file name.

    Raises `DataError` with file and line for wrong columns, brackets that do not match, a document that does not end,
    has no words or shares its name with another, or no document at all."""
    documents: dict[str, CorefDocument] = {}
    for file, text in _texts(Path(path)):
        found = False
        for document, line in _documents(text, file):
            found = True
            if document.name in documents:
                raise DataError(file, f"{document.name!r} is the name of another document too", line=line)
            documents[document.name] = document
        if not found:
            raise DataError(file, "holds no document: '#begin document' is missing")
    return list(documents.values())
