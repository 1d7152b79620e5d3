# SPDX-License-Identifier: Apache-2.0
"""Questions with their contexts as windows of tokens, and where their answers stand in these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from spanbert_ext.evaluate.data.squad import Question
from spanbert_ext.evaluate.tasks.qa.options import QaOptions

_TOGETHER = 1000  # questions that the tokenizer encodes in one call


@dataclass(frozen=True)
class Window:
    """A question and a part of its context.

    question: its index. row: what the encoder reads. cls: position of [CLS], which means no answer. offsets [L, 2]:
    where a token stands in the context, as characters; (0, 0) of tokens that are not of the context. begins [L]:
    whether an answer may begin at a token: tokens of the context for which no other window has more text around."""

    question: int
    row: dict[str, list[int]]
    cls: int
    offsets: np.ndarray
    begins: np.ndarray

    @property
    def of_context(self) -> np.ndarray:
        """[L] whether a token is one of the context, with characters of its own."""
        return self.offsets[:, 1] > self.offsets[:, 0]


def make_windows(
    questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, options: QaOptions, longest: int
) -> list[Window]:
    """The windows of every question, in order; `question` counts from 0. longest: most tokens of a row."""
    windows: list[Window] = []
    for first in range(0, len(questions), _TOGETHER):
        part = questions[first : first + _TOGETHER]
        windows += _windows(part, first, tokenizer, options, longest)
    return windows


def _windows(
    questions: Sequence[Question],
    first: int,
    tokenizer: PreTrainedTokenizerBase,
    options: QaOptions,
    longest: int,
) -> list[Window]:
    asked = _cut([question.question.strip() for question in questions], tokenizer, options, longest)
    encoded = tokenizer(
        asked,
        [question.context for question in questions],
        truncation="only_second",
        max_length=longest,
        stride=min(options.stride, longest // 3),
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    by_question: dict[int, list[int]] = {}
    for place, question in enumerate(encoded["overflow_to_sample_mapping"]):
        by_question.setdefault(question, []).append(place)
    windows = []
    for question, places in by_question.items():
        offsets = []
        for place in places:
            of_context = np.array([part == 1 for part in encoded.sequence_ids(place)])
            offsets.append(np.asarray(encoded["offset_mapping"][place], dtype=np.int32) * of_context[:, None])
        for place, own, begins in zip(places, offsets, _most_context(offsets), strict=True):
            row: dict[str, Any] = {"input_ids": encoded["input_ids"][place]}
            if "token_type_ids" in encoded:
                row["token_type_ids"] = encoded["token_type_ids"][place]
            cls = row["input_ids"].index(tokenizer.cls_token_id)
            windows.append(Window(first + question, row, cls, own, begins))
    return windows


def _cut(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, options: QaOptions, longest: int
) -> list[str]:
    """Questions of at most `max_question` tokens: a longer one would leave its context no room."""
    most = min(options.max_question, longest // 4)
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
    return [
        text if len(offsets) <= most else text[: offsets[most - 1][1]]
        for text, offsets in zip(texts, encoded["offset_mapping"], strict=True)
    ]


def _most_context(offsets: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Which tokens of each window of one context have more of it around them than in any other window: the lesser of
    the tokens on their left and right counts, then the longer window, then the earlier one."""
    best: dict[tuple[int, int], tuple[float, int]] = {}
    ranked = []
    for number, places in enumerate(offsets):
        inside = np.flatnonzero(places[:, 1] > places[:, 0])
        count = len(inside)
        ranks = {}
        for order, index in enumerate(inside.tolist()):
            key = (int(places[index, 0]), int(places[index, 1]))
            rank = min(order, count - 1 - order) + 0.01 * count
            ranks[index] = key
            if key not in best or rank > best[key][0]:
                best[key] = (rank, number)
        ranked.append(ranks)
    found = []
    for number, (places, ranks) in enumerate(zip(offsets, ranked, strict=True)):
        begins = np.zeros(len(places), dtype=bool)
        begins[[index for index, key in ranks.items() if best[key][1] == number]] = True
        found.append(begins)
    return found


def answer_tokens(window: Window, question: Question) -> tuple[int, int]:
    """First and last token of the question's first answer; ([CLS], [CLS]) where it has none or the window does not
    hold all of it."""
    nothing = (window.cls, window.cls)
    if not question.answers:
        return nothing
    text, start = question.answers[0]
    start += len(text) - len(text.lstrip())
    end = start + len(text.strip())
    inside = np.flatnonzero(window.of_context)
    if end <= start or not len(inside):
        return nothing
    begins, ends = window.offsets[inside, 0], window.offsets[inside, 1]
    touched = inside[(ends > start) & (begins < end)]
    if not len(touched) or start < begins[0] or end > ends[-1]:
        return nothing
    return int(touched[0]), int(touched[-1])
