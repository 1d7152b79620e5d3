"""Relations between two spans of a text: SemEval-2010 task 8, TACRED, and texts with marked spans (ChemProt, SciERC)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


def read_semeval(path: Path | str) -> list[Relation]:
    """The sentences of a SemEval-2010 task 8 file (TRAIN_FILE.TXT, packed or not). The text is what stands between the
    quotation marks, without the tags."""
    raise NotImplementedError


def read_tacred(path: Path | str) -> list[Relation]:
    """The examples of a TACRED (Re-TACRED) JSON file. The text is the tokens joined by blanks; types are given."""
    raise NotImplementedError


def read_marked(path: Path | str) -> list[Relation]:
    """The examples of JSON lines with `text` and `label`, whose spans are marked `[[ head ]]` and `<< tail >>`
    (ChemProt and SciERC as SciBERT's authors packed them)."""
    raise NotImplementedError
