# SPDX-License-Identifier: Apache-2.0
"""The English that every Python interpreter carries: the default corpus, for a machine with nothing.
 One document per documentation topic (`pydoc_data.topics`) and one per standard-library module (its
docstrings in source order). Sources are parsed, never imported. Only prose is kept: code, doctests,
grammars, signatures and tables go. The text depends on the interpreter's version alone."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_SKIPPED_FOLDERS = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "pydoc_data",
    "encodings",
    "lib2to3",
}
_MIN_CHARACTERS = 300  # a shorter document cannot even fill half a block
_MARKUP = [
    (re.compile(r":[a-z]+:`~?([^`]+)`"), r"\1"),  # :class:`Name`
    (re.compile(r"``([^`]+)``"), r"\1"),
    (re.compile(r"(?<!\w)[`*]([^`*\s]+)[`*'](?!\w)"), r"\1"),  # *name*, `name`, `name'
    (re.compile(r"[*=~^-]{4,}|(?<!\S)[*](?!\S)"), " "),  # underlines of headings, bullets
    (re.compile(r"\s+"), " "),
]
_WORD = re.compile(r"""["'(\[]*[A-Za-z]+(?:['/-][A-Za-z]+)*["')\].,;:!?]*$""")
_FUNCTION_WORDS = frozenset(
    [
        "the",
        "a",
        "an",
        "of",
        "to",
        "is",
        "are",
        "be",
        "and",
        "or",
        "in",
        "for",
        "if",
        "it",
        "this",
        "that",
        "with",
        "by",
        "as",
        "not",
    ]
)


def _is_prose(paragraph: str) -> bool:
    words = paragraph.split()
    plain = sum(_WORD.match(word) is not None for word in words)
    return (
        len(words) >= 5
        and plain >= 0.75 * len(words)
        and not _FUNCTION_WORDS.isdisjoint(map(str.lower, words))
    )


def _paragraphs(text: str) -> Iterator[str]:
    """Unwrapped prose paragraphs of a docstring or a topic."""
    literal_indent = -1  # inside a literal block: its introducing line's indentation
    for block in re.split(r"\n[ \t]*\n", text.expandtabs()):
        lines = [line for line in block.split("\n") if line.strip()]
        if not lines or ">>>" in block or "::=" in block:
            continue
        indent = len(lines[0]) - len(lines[0].lstrip())
        if 0 <= literal_indent < indent:
            continue
        paragraph = " ".join(line.strip() for line in lines)
        literal_indent = indent if paragraph.endswith("::") else -1
        paragraph = re.sub(r"::$", ":", paragraph)
        for pattern, replacement in _MARKUP:
            paragraph = pattern.sub(replacement, paragraph)
        paragraph = re.sub(r"^[+-]+ ", "", paragraph.strip())
        if _is_prose(paragraph):
            yield paragraph


def _topic_texts() -> Iterator[tuple[str, list[str]]]:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # some distributions package the topics apart
        return
    for name in sorted(topics):
        yield f"topic {name}", [topics[name]]


def _module_texts() -> Iterator[tuple[str, list[str]]]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        name = path.relative_to(root).as_posix()
        if not _SKIPPED_FOLDERS.isdisjoint(name.split("/")):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):  # templates and other versions' grammar
            continue
        holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        nodes = [node for node in ast.walk(tree) if isinstance(node, holders)]
        nodes.sort(key=lambda node: getattr(node, "lineno", 0))
        yield name, [doc for doc in map(ast.get_docstring, nodes) if doc]


def _builtin_texts() -> Iterator[tuple[str, list[str]]]:
    """Docstrings of the modules compiled into the interpreter; importing these has no effect."""
    for name in sorted(sys.builtin_module_names):
        members = vars(importlib.import_module(name))
        texts = []
        for value in (members[key] for key in sorted(members)):
            texts.append(inspect.getdoc(value) if callable(value) else None)
            if inspect.isclass(value):
                texts += [
                    inspect.getdoc(member) for _, member in sorted(vars(value).items()) if callable(member)
                ]
        yield f"builtin {name}", [text for text in texts if isinstance(text, str)]


def builtin_documents() -> Iterator[tuple[str, str]]:
    """Yields `(name, text)`; `text` has one paragraph a line. A paragraph that occurred before is left out,
    so that nothing held out was seen in training word for word."""
    seen: set[str] = set()
    for name, texts in itertools.chain(_topic_texts(), _module_texts(), _builtin_texts()):
        paragraphs = []
        for paragraph in (p for text in texts for p in _paragraphs(text)):
            if paragraph not in seen:
                seen.add(paragraph)
                paragraphs.append(paragraph)
        text = "\n".join(paragraphs)
        if len(text) >= _MIN_CHARACTERS:
            yield name, text
