# SPDX-License-Identifier: Apache-2.0
"""QAMR (Michael et al., NAACL 2018): questions on single sentences, answers as token numbers."""

from __future__ import annotations

import re
from pathlib import Path

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.sources import read_lines
from spanbert_ext.evaluate.data.squad import Answer, Question
from spanbert_ext.evaluate.data.tokens import join_tokens

_COLUMNS = (
    9  # sentence, target words, worker, number of the question, target word, question, answer, two validators
)
_TOKENS = re.compile(r"[0-9]{1,9}( [0-9]{1,9})*")
_VERDICT = re.compile(r"Invalid|Redundant-\d+")  # what a validator says in place of an answer


def _sentences(path: Path | str) -> dict[str, list[str]]:
    """The tokens of every sentence by its id."""
    sentences = {}
    for number, line in enumerate(read_lines(path), 1):
        name, tab, text = line.partition("\t")
        if not tab or not text.strip():
            raise DataError(path, "expected a sentence's id, a tab and its tokens", line=number)
        tokens = text.split(" ")
        if sentences.setdefault(name, tokens) != tokens:
            raise DataError(path, f"{name!r} is the id of another sentence too", line=number)
    return sentences


def read_qamr(path: Path | str, sentences: Path | str) -> list[Question]:
    """The question-answer pairs of a QAMR file (train.tsv, dev.tsv) over its sentences (wiki-sentences.tsv).

    The context is the sentence's tokens joined by blanks, the article the sentence's id. An answer whose tokens are
    not all neighbours is the span from its first to its last. Raises `DataError` with file and line for other columns,
    an unknown sentence, a token that it does not have, tokens without characters, a pair that occurs twice, two
    sentences with one id, or no pair at all."""
    tokens_of = _sentences(sentences)
    questions: dict[str, Question] = {}
    for number, line in enumerate(read_lines(path), 1):
        columns = line.split("\t")
        if len(columns) != _COLUMNS:
            raise DataError(path, f"has {len(columns)} columns; expected {_COLUMNS}", line=number)
        name, targets, worker, index, _, question, answer, *validators = columns
        if name not in tokens_of:
            raise DataError(path, f"the sentence {name!r} is not in {sentences}", line=number)
        context, spans = join_tokens(tokens_of[name])
        judgments = [validator.partition(":")[2] for validator in validators]
        answers = []
        for text in [answer, *(judgment for judgment in judgments if not _VERDICT.fullmatch(judgment))]:
            if not _TOKENS.fullmatch(text):
                raise DataError(path, f"an answer is {text!r}; expected numbers of tokens", line=number)
            answered = [int(token) for token in text.split(" ")]
            if max(answered) >= len(spans):
                message = f"an answer has the token {max(answered)}, the sentence only {len(spans)} tokens"
                raise DataError(path, message, line=number)
            start, end = spans[min(answered)][0], spans[max(answered)][1]
            if not context[start:end].strip():
                raise DataError(path, f"an answer is {text!r}, tokens without characters", line=number)
            answers.append(Answer(context[start:end], start))
        id_ = f"{name} {targets} {worker} {index}"
        if id_ in questions:
            raise DataError(path, "this pair (columns 1 to 4) occurs twice", line=number)
        questions[id_] = Question(id_, name, context, question, tuple(answers))
    if not questions:
        raise DataError(path, "holds no question")
    return list(questions.values())
