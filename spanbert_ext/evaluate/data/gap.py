# SPDX-License-Identifier: Apache-2.0
"""GAP (Webster et al., TACL 2018): ambiguous pronouns, each with two names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.sources import read_lines

_COLUMNS = "ID Text Pronoun Pronoun-offset A A-offset A-coref B B-offset B-coref URL".split()
_MASCULINE = ("he", "him", "his")
_FEMININE = ("she", "her", "hers")


@dataclass(frozen=True, slots=True)
class GapExample:
    """A text, its pronoun and two names; offsets count characters. At most one name is what the pronoun refers to."""

    id: str
    text: str
    pronoun: str
    pronoun_start: int
    a: str
    a_start: int
    a_coref: bool
    b: str
    b_start: int
    b_coref: bool
    url: str  # the page of the text: examples of one page are no independent items

    @property
    def label(self) -> Literal["A", "B", "neither"]:
        return "A" if self.a_coref else "B" if self.b_coref else "neither"

    @property
    def gender(self) -> Literal["masculine", "feminine"]:
        """Of the pronoun."""
        return "masculine" if self.pronoun.lower() in _MASCULINE else "feminine"


def _offset(path: Path | str, line: int, name: str, mention: str, value: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise DataError(path, f"{name}-offset is {value!r}; expected a number of characters", line=line)
    start = int(value)
    if not mention.strip() or text[start : start + len(mention)] != mention:
        found = text[start : start + len(mention)]
        raise DataError(path, f"{name} is {mention!r}, but at {start} stands {found!r}", line=line)
    return start


def _truth(path: Path | str, line: int, name: str, value: str) -> bool:
    if value.upper() not in ("TRUE", "FALSE"):
        raise DataError(path, f"{name}-coref is {value!r}; expected TRUE or FALSE", line=line)
    return value.upper() == "TRUE"


def read_gap(path: Path | str) -> list[GapExample]:
    """The examples of a GAP file (.tsv, packed or not). Raises `DataError` with file and line for wrong columns, a name
    or pronoun that does not stand where it should, a pronoun without gender, two right names, an id that occurs twice,
    or no example at all."""
    header, *lines = read_lines(path) or [""]
    if header.split("\t") != _COLUMNS:
        raise DataError(path, f"the columns are {header!r}; expected {' '.join(_COLUMNS)}", line=1)
    examples: dict[str, GapExample] = {}
    for number, line in enumerate(lines, 2):
        columns = line.split("\t")
        if len(columns) != len(_COLUMNS):
            raise DataError(path, f"has {len(columns)} columns; expected {len(_COLUMNS)}", line=number)
        of = dict(zip(_COLUMNS, columns, strict=True))
        if of["Pronoun"].lower() not in _MASCULINE + _FEMININE:
            raise DataError(path, f"the pronoun is {of['Pronoun']!r}", line=number)
        starts = {
            name: _offset(path, number, name, of[name], of[f"{name}-offset"], of["Text"])
            for name in ("Pronoun", "A", "B")
        }
        a_coref, b_coref = (_truth(path, number, name, of[f"{name}-coref"]) for name in ("A", "B"))
        if a_coref and b_coref:
            raise DataError(path, "both names are right; expected one or neither", line=number)
        if of["ID"] in examples:
            raise DataError(path, f"{of['ID']!r} is the id of another example too", line=number)
        examples[of["ID"]] = GapExample(
            id=of["ID"],
            text=of["Text"],
            pronoun=of["Pronoun"],
            pronoun_start=starts["Pronoun"],
            a=of["A"],
            a_start=starts["A"],
            a_coref=a_coref,
            b=of["B"],
            b_start=starts["B"],
            b_coref=b_coref,
            url=of["URL"],
        )
    if not examples:
        raise DataError(path, "holds no example")
    return list(examples.values())
