# SPDX-License-Identifier: Apache-2.0
"""What stands in README and in a page of the documentation: its blocks of code, and what marks them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
README = DOCS.parent / "README.md"
_FENCE = re.compile(r"^(?P<fence>```+)(?P<language>[^\s`]*)[^\n`]*\n(?P<text>.*?)^(?P=fence)$", re.M | re.S)
# In the line before a block: <!-- not run: WHY -->
_NOT_RUN = re.compile(r"<!-- not run: ([^>]+) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """`follows`: nothing but white space stands between it and the block before it."""

    language: str
    text: str
    line: int
    not_run: str
    follows: bool


def pages() -> list[Path]:
    return [README, *sorted(path for path in DOCS.rglob("*.md") if "_" not in path.name[0])]


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    found, end = [], 0
    for match in _FENCE.finditer(text):
        between = text[end : match.start()]
        mark = _NOT_RUN.search(between)
        line = text.count("\n", 0, match.start("text")) + 1
        follows = bool(found) and not between.strip()
        found.append(Block(match["language"], match["text"], line, mark[1] if mark else "", follows))
        end = match.end()
    return found


def commands(block: Block) -> list[list[str]]:
    """The command lines of a block of shell, with what a backslash continues, without comments."""
    joined = block.text.replace("\\\n", " ")
    lines = (shlex.split(line.removeprefix("$ "), comments=True) for line in joined.splitlines())
    return [line for line in lines if line]
