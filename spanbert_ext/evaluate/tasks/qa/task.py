# SPDX-License-Identifier: Apache-2.0
"""Extractive question answering: fine-tuning and answers of one fold."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerBase

from spanbert_ext.evaluate.data.squad import Question
from spanbert_ext.evaluate.scores.metric import Metric
from spanbert_ext.evaluate.scores.qa import QA_METRICS, qa_row
from spanbert_ext.evaluate.scores.rows import ItemRow
from spanbert_ext.evaluate.tasks.fine_tuning import collate_tokens, fine_tune, predict
from spanbert_ext.evaluate.tasks.folds import cross_validation, hold_out
from spanbert_ext.evaluate.tasks.form import (
    Checkpoint,
    Conditions,
    DataSet,
    Fold,
    Outcome,
    Task,
)
from spanbert_ext.evaluate.tasks.loading import check_first_token, load_model, load_tokenizer, longest_row
from spanbert_ext.evaluate.tasks.qa.answers import Answered, best_threshold, collect
from spanbert_ext.evaluate.tasks.qa.files import find_sets
from spanbert_ext.evaluate.tasks.qa.options import QaOptions
from spanbert_ext.evaluate.tasks.qa.windows import Window, answer_tokens, make_windows

_MOST_HELD_OUT = 2000  # questions: a threshold needs no more
_SHOWN = 3  # texts of a prediction
_KEPT = 2  # data sets whose windows are kept


@dataclass(frozen=True)
class QaData(DataSet):
    """Questions; the first `split` are those to train on where the data has a split, 0 where it has none."""

    questions: tuple[Question, ...]
    split: int

    @property
    def has_unanswerable(self) -> bool:
        return not all(question.answerable for question in self.questions)


class QaTask(Task[QaData, QaOptions]):
    """Question first, context second, in windows; [CLS] stands for no answer."""

    clusters = "articles"
    items = "questions"
    method = 3

    def __init__(self) -> None:
        self._windows: dict[
            tuple[Any, ...], list[list[Window]]
        ] = {}  # those of the last tokenizers and data sets

    def load(self, path: Path, options: QaOptions) -> list[QaData]:
        return [
            QaData(name, files, tuple(questions), split) for name, files, questions, split in find_sets(path)
        ]

    def folds(self, data: QaData, options: QaOptions) -> list[Fold]:
        articles = [question.article for question in data.questions]
        if data.split:
            everything = range(len(articles))
            folds = [Fold("dev", tuple(everything[: data.split]), tuple(everything[data.split :]))]
        else:
            folds = cross_validation(articles, options.folds, self.clusters)
        if not data.has_unanswerable or not options.held_out_share:
            return folds
        return [hold_out(fold, articles, options.held_out_share, _MOST_HELD_OUT) for fold in folds]

    def metrics(self, data: QaData) -> dict[str, Metric]:
        """Of answerable questions alone, whatever the null score says; then of all."""
        metrics = {name: QA_METRICS[name] for name in ("F1", "EM")}
        if data.has_unanswerable:
            metrics |= {name: QA_METRICS[name] for name in ("F1 with no-answer", "EM with no-answer")}
        return metrics

    def constant_answers(self, data: QaData, items: Sequence[int]) -> Iterator[list[ItemRow]]:
        """No answer."""
        questions = [data.questions[index] for index in items]
        yield [ItemRow(q.article, q.id, qa_row("", "", [text for text, _ in q.answers])) for q in questions]

    def check(
        self,
        checkpoint: Checkpoint,
        data: Sequence[QaData],
        folds: Sequence[Sequence[Fold]],
        options: QaOptions,
    ) -> None:
        check_first_token(checkpoint, "which stands for no answer")
        load_model(AutoModelForQuestionAnswering, checkpoint, seed=0)

    def train_and_predict(
        self, checkpoint: Checkpoint, data: QaData, fold: Fold, options: QaOptions, conditions: Conditions
    ) -> Outcome:
        tokenizer = load_tokenizer(checkpoint)
        longest = longest_row(checkpoint, options.max_length)
        of_question = self._windows_of(data, tokenizer, options, longest)
        train = [window for index in fold.train for window in of_question[index]]
        rows = [_training_row(window, data.questions[window.question]) for window in train]
        collate = partial(_collate, pad_token_id=tokenizer.pad_token_id, longest=longest)
        model = load_model(AutoModelForQuestionAnswering, checkpoint, conditions.seed)
        rates = [("", options.rate_for(model.config.hidden_size))]
        facts = fine_tune(model, rows, collate, options, conditions, rates=rates)

        asked = [*fold.held_out, *fold.test]
        questions = [data.questions[index] for index in asked]
        windows = [
            dataclasses.replace(window, question=place)
            for place, index in enumerate(asked)
            for window in of_question[index]
        ]
        scores = (
            (indices, output["start_logits"], output["end_logits"])
            for indices, _, output in predict(model, [window.row for window in windows], collate, conditions)
        )
        answers = collect(questions, windows, scores, options.max_answer, options.n_best)
        held_out = len(fold.held_out)
        threshold = (
            best_threshold(questions[:held_out], answers[:held_out]) if data.has_unanswerable else math.inf
        )
        facts |= {
            "tokens_of_a_window": longest,
            "windows": len(train),
            "without_answer": sum(
                row["start_positions"] == window.cls for row, window in zip(rows, train, strict=True)
            ),
            "threshold": threshold if data.has_unanswerable else None,
        }
        return _outcome(questions[held_out:], answers[held_out:], threshold, facts)

    def _windows_of(
        self, data: QaData, tokenizer: PreTrainedTokenizerBase, options: QaOptions, longest: int
    ) -> list[list[Window]]:
        """The windows of every question of the data set. Checkpoints with one tokenizer share them."""
        words = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
        names = tuple(
            tokenizer.model_input_names
        )  # one vocabulary serves encoders with and without token types
        key = (words, names, data.files, longest, options.stride, options.max_question)
        if key not in self._windows:
            of_question: list[list[Window]] = [[] for _ in data.questions]
            for window in make_windows(data.questions, tokenizer, options, longest):
                of_question[window.question].append(window)
            while len(self._windows) >= _KEPT:
                self._windows.pop(next(iter(self._windows)))
            self._windows[key] = of_question
        return self._windows[key]


def _outcome(
    questions: Sequence[Question], answers: Sequence[Answered], threshold: float, facts: dict[str, Any]
) -> Outcome:
    rows, predictions = [], {}
    for question, answer in zip(questions, answers, strict=True):
        gold = [text for text, _ in question.answers]
        text = answer.text(threshold)
        rows.append(ItemRow(question.article, question.id, qa_row(answer.best, text, gold)))
        predictions[question.id] = {
            "answer": text,
            "best": list(answer.texts[:_SHOWN]),
            "margin": answer.margin,
        }
    return Outcome(rows, predictions, facts)


def _training_row(window: Window, question: Question) -> dict[str, Any]:
    first, last = answer_tokens(window, question)
    return window.row | {"start_positions": first, "end_positions": last}


def _collate(rows: Sequence[dict[str, Any]], pad_token_id: int, longest: int) -> dict[str, Tensor]:
    batch = collate_tokens(rows, pad_token_id, longest)
    for name in ("start_positions", "end_positions"):
        if name in rows[0]:
            batch[name] = torch.tensor([row[name] for row in rows])
    return batch
