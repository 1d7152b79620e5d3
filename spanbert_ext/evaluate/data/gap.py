"""GAP (Webster et al., TACL 2018): ambiguous pronouns, each with two names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


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
    url: str

    @property
    def label(self) -> Literal["A", "B", "neither"]:
        return "A" if self.a_coref else "B" if self.b_coref else "neither"

    @property
    def gender(self) -> Literal["masculine", "feminine"]:
        """Of the pronoun."""
        return "masculine" if self.pronoun.lower() in ("he", "him", "his") else "feminine"


def read_gap(path: Path | str) -> list[GapExample]:
    """The examples of a GAP file (.tsv, packed or not). Raises `DataError` with file and line for wrong columns, a name
    or pronoun that does not stand where it should, two right names, or an id that occurs twice."""
    raise NotImplementedError
