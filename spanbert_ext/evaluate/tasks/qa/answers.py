# SPDX-License-Identifier: Apache-2.0
"""From the scores of tokens to answers: the best spans, no answer, and the threshold between them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spanbert_ext.evaluate.data.squad import Question
from spanbert_ext.evaluate.scores.qa import score_answer
from spanbert_ext.evaluate.tasks.qa.windows import Window

_LOWEST = -1e30  # of what is no candidate; finite, so that sums of two are


@dataclass(frozen=True)
class Answered:
    """What a model makes of a question: its best texts with their scores, the best first, and the score of [CLS], the
    lowest of all windows. A question without a candidate has no text."""

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    null: float

    @property
    def best(self) -> str:
        return self.texts[0] if self.texts else ""

    @property
    def margin(self) -> float:
        """By how much no answer scores above the best text."""
        return self.null - self.scores[0] if self.scores else float("inf")

    def text(self, threshold: float) -> str:
        """The best text, or "" where no answer scores above it by more than the threshold."""
        return "" if self.margin > threshold else self.best


def best_spans(
    start: Tensor, end: Tensor, begins: Tensor, ends: Tensor, max_answer: int, n_best: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The `n_best` spans of each row by the sum of their scores, of at most `max_answer` tokens.

    start, end: [B, L] scores. begins, ends: [B, L] bool, where a span may begin and end. Returns scores, first and last
    tokens, [B, n] each; a score below -1e29 is of no span."""
    start = torch.where(begins, start.float().nan_to_num(_LOWEST), _LOWEST)
    end = torch.where(ends, end.float().nan_to_num(_LOWEST), _LOWEST)
    width = min(max_answer, end.shape[1])
    after = F.pad(end, (0, width - 1), value=_LOWEST).unfold(
        1, width, 1
    )  # [B, L, width]: ends of a span from a token
    sums = (start[:, :, None] + after).flatten(1)
    scores, places = sums.topk(min(n_best, sums.shape[1]), dim=1)
    first = places // width
    return scores, first, first + places % width


def collect(
    questions: Sequence[Question],
    windows: Sequence[Window],
    predictions: Iterable[tuple[list[int], Tensor, Tensor]],
    max_answer: int,
    n_best: int,
) -> list[Answered]:
    """An answer for every question. predictions: of batches of windows, their indices and the scores of their tokens as
    first and last of the answer [B, L], with any padding behind."""
    found: list[dict[str, float]] = [{} for _ in questions]
    null = np.full(len(questions), np.inf)
    for indices, start, end in predictions:
        begins, ends = _masks([windows[index] for index in indices], start)
        cls = torch.tensor([windows[index].cls for index in indices], device=start.device)[:, None]
        # in float32, as best_spans adds: in bfloat16 the sum alone may be off by a hundredth, and the margin with it
        nothing = (start.gather(1, cls).float() + end.gather(1, cls).float())[:, 0].nan_to_num(_LOWEST)
        spans = best_spans(start, end, begins, ends, max_answer, n_best)
        scores, first, last, of_cls = (x.cpu().numpy() for x in (*spans, nothing))
        for place, index in enumerate(indices):
            window = windows[index]
            question, texts = questions[window.question], found[window.question]
            null[window.question] = min(null[window.question], of_cls[place])
            for score, i, j in zip(scores[place].tolist(), first[place], last[place], strict=True):
                if score > _LOWEST / 10:
                    text = question.context[window.offsets[i, 0] : window.offsets[j, 1]].strip()
                    if text:  # some tokenizers make tokens of blanks
                        texts[text] = max(score, texts.get(text, score))
    answers = []
    for texts, score in zip(found, null.tolist(), strict=True):
        best = sorted(texts.items(), key=lambda item: -item[1])[:n_best]
        answers.append(Answered(tuple(text for text, _ in best), tuple(score for _, score in best), score))
    return answers


def _masks(windows: Sequence[Window], like: Tensor) -> tuple[Tensor, Tensor]:
    """[B, L] bool on the device of `like` [B, L]: where answers may begin, and where they may end."""
    begins, ends = np.zeros((2, *like.shape), dtype=bool)
    for place, window in enumerate(windows):
        begins[place, : len(window.begins)] = window.begins
        ends[place, : len(window.begins)] = window.of_context
    return torch.from_numpy(begins).to(like.device), torch.from_numpy(ends).to(like.device)


def best_threshold(questions: Sequence[Question], answers: Sequence[Answered]) -> float:
    """The margin above which no answer is given, so that F1 over these questions is highest; of several the middle of
    the first range. 0 where there is no question, or only answerable or only unanswerable ones to choose from."""
    if len({question.answerable for question in questions}) < 2:
        return 0.0
    margins = np.array([answer.margin for answer in answers])
    given, withheld = [], []
    for question, answer in zip(questions, answers, strict=True):
        texts = [text for text, _ in question.answers]
        given.append(score_answer(answer.best, texts)[1])
        withheld.append(score_answer("", texts)[1])
    order = np.argsort(margins, kind="stable")
    gain = np.concatenate([[0.0], np.cumsum(np.array(given)[order] - np.array(withheld)[order])])
    ranked = margins[order]
    # The first k questions are answered: a threshold between their margins and the next one's, where these differ.
    possible = np.concatenate([[True], ranked[1:] > ranked[:-1], [True]])
    count = int(np.argmax(np.where(possible, gain, -np.inf)))
    finite = ranked[np.isfinite(ranked)]
    if not len(finite):
        return 0.0
    below = ranked[count - 1] if count else finite[0] - 1.0
    above = ranked[count] if count < len(ranked) and np.isfinite(ranked[count]) else finite[-1] + 1.0
    return float(below + above) / 2
