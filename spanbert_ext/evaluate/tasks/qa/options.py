# SPDX-License-Identifier: Apache-2.0
"""Options of `spanbert-evaluate qa`."""

from __future__ import annotations

from dataclasses import dataclass

from spanbert_ext.evaluate.tasks.options import TrainingOptions, option


@dataclass(frozen=True)
class QaOptions(TrainingOptions):
    """Fine-tuning for extractive question answering."""

    max_length: int = option(
        384,
        "most tokens of a window: the question and a part of its context; fewer where the encoder has fewer positions",
        metavar="N",
        least=16,
        most=2**20,
    )
    stride: int = option(
        128,
        "tokens that neighbouring windows of a context share, at most a third of a window",
        metavar="N",
        least=0,
    )
    max_question: int = option(
        64, "tokens that a question is cut to, at most a quarter of a window", metavar="N", least=1
    )
    max_answer: int = option(30, "most tokens of an answer", metavar="N", least=1, most=1000)
    n_best: int = option(
        20,
        "candidates of a window, and answers of a question that are compared",
        metavar="N",
        least=1,
        most=1000,
    )
    held_out_share: float = option(
        0.1,
        "share of the training questions, by whole articles, from which the threshold of no answer is chosen; of data"
        " with unanswerable questions",
        metavar="SHARE",
        least=0.0,
        most=0.5,
    )
