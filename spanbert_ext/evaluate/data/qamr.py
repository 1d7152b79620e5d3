"""QAMR (Michael et al., NAACL 2018): questions on single sentences, answers as token numbers."""

from __future__ import annotations

from pathlib import Path

from spanbert_ext.evaluate.data.squad import Question


def read_qamr(path: Path | str, sentences: Path | str) -> list[Question]:
    """The question-answer pairs of a QAMR file (train.tsv, dev.tsv) over its sentences (wiki-sentences.tsv).

    The context is the sentence's tokens joined by blanks, the article the sentence's id."""
    raise NotImplementedError
