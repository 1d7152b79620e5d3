# SPDX-License-Identifier: Apache-2.0
"""From scores to answers: the best spans of a window, of a question's windows, and the threshold of no answer."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch

from spanbert_ext.evaluate.data.squad import Answer, Question
from spanbert_ext.evaluate.scores.qa import score_answer
from spanbert_ext.evaluate.tasks.qa.answers import Answered, best_spans, best_threshold, collect
from spanbert_ext.evaluate.tasks.qa.windows import Window

CONTEXT = "one two three four five six seven eight"


def masks(length: int) -> tuple[torch.Tensor, torch.Tensor]:
    begins, ends = torch.rand(2, 3, length) > 0.3
    return begins, ends


@pytest.mark.parametrize("max_answer, n_best", [(1, 5), (3, 20), (30, 7), (4, 1000)])
def test_best_spans_are_those_of_trying_all(max_answer: int, n_best: int) -> None:
    start, end = torch.randn(2, 3, 11)
    begins, ends = masks(11)
    scores, first, last = best_spans(start, end, begins, ends, max_answer, n_best)
    for row in range(3):
        every = sorted(
            (
                (float(start[row, i] + end[row, j]), i, j)
                for i, j in itertools.product(range(11), repeat=2)
                if i <= j < i + max_answer and begins[row, i] and ends[row, j]
            ),
            reverse=True,
        )[:n_best]
        found = [
            (s, i, j)
            for s, i, j in zip(scores[row].tolist(), first[row].tolist(), last[row].tolist(), strict=True)
            if s > -1e29
        ]
        assert [x[1:] for x in found] == [x[1:] for x in every]
        np.testing.assert_allclose([x[0] for x in found], [x[0] for x in every], rtol=1e-6)


def window(number: int, begins: list[int] | None = None) -> Window:
    """[CLS] one question token [SEP], then the eight words."""
    places = [(0, 0)] * 3
    for word in CONTEXT.split():
        start = CONTEXT.index(word)
        places.append((start, start + len(word)))
    offsets = np.array([*places, (0, 0)])
    may = offsets[:, 1] > 0
    if begins is not None:
        may = may & np.isin(np.arange(len(offsets)), begins)
    return Window(number, {"input_ids": [0] * len(offsets)}, 0, offsets, may)


def asked(number: int, *answers: str) -> Question:
    found = tuple(Answer(text, CONTEXT.index(text)) for text in answers)
    return Question(str(number), "article", CONTEXT, "which?", found)


def scores(**values: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """[1, 14] with padding; by word, "cls" or "sep"."""
    start, end = torch.full((2, 1, 14), -5.0)
    places = {"cls": 0, "sep": 2} | {word: 3 + i for i, word in enumerate(CONTEXT.split())}
    for name, (a, b) in values.items():
        start[0, places[name]], end[0, places[name]] = a, b
    start[0, 12:] = end[0, 12:] = 100.0  # padding, which is no answer
    return start, end


def test_the_best_text_of_all_windows_and_the_lowest_null_score() -> None:
    questions = [asked(0, "two three"), asked(1)]
    windows = [window(0), window(0), window(1)]
    predictions = [
        ([0], *scores(two=(3.0, 0.0), three=(0.0, 2.0), cls=(1.0, 1.0))),
        ([2], *scores(cls=(4.0, 4.0), six=(1.0, 1.0))),
        ([1], *scores(five=(2.0, 2.0), three=(4.0, 3.0), cls=(0.0, 0.5))),
    ]
    first, second = collect(questions, windows, predictions, max_answer=30, n_best=20)
    assert first.best == "three" and first.scores[0] == 7.0
    assert first.scores[first.texts.index("two three")] == 5.0
    assert first.null == 0.5 and first.margin == -6.5
    assert second.best == "six" and second.null == 8.0 and second.margin == 6.0
    assert second.text(5.9) == "" and second.text(6.0) == "six"
    assert len(first.texts) == len(set(first.texts)) <= 20


def test_an_answer_begins_only_where_its_window_has_most_context() -> None:
    (answer,) = collect(
        [asked(0)], [window(0, begins=[6, 7])], [([0], *scores(two=(9.0, 9.0), four=(1.0, 1.0)))], 30, 20
    )
    assert answer.best == "four"


def test_a_question_without_a_candidate_has_no_text() -> None:
    (answer,) = collect([asked(0)], [window(0, begins=[])], [([0], *scores())], 30, 20)
    assert answer.texts == () and answer.best == "" and answer.text(1e9) == ""


def test_a_token_of_blanks_is_no_answer() -> None:
    blank = window(0)
    blank.offsets[4] = (3, 4)  # behind "one", in the place of "two"
    (answer,) = collect([asked(0)], [blank], [([0], *scores(two=(9.0, 9.0), four=(1.0, 1.0)))], 30, 20)
    assert "" not in answer.texts and answer.best == "two three four"


def test_no_answer_is_scored_as_exactly_as_answers_are() -> None:
    """In bfloat16 the sum would be 10.125."""
    start, end = (x.bfloat16() for x in scores(cls=(10.0625, 0.03125), four=(10.0625, 0.03125)))
    (answer,) = collect([asked(0)], [window(0)], [([0], start, end)], 30, 20)
    assert answer.null == 10.09375 and answer.margin == 0


def test_scores_that_are_no_numbers_are_no_candidates() -> None:
    start, end = scores(two=(float("nan"), 1.0), four=(2.0, 2.0))
    (answer,) = collect([asked(0)], [window(0)], [([0], start, end)], 30, 20)
    assert answer.best == "four" and all(np.isfinite(answer.scores))
    (answer,) = collect([asked(0)], [window(0)], [([0], start * float("nan"), end * float("nan"))], 30, 20)
    assert answer.best == "" and np.isfinite(answer.null)


def f1_at(threshold: float, questions: list[Question], answers: list[Answered]) -> float:
    return sum(
        score_answer(answer.text(threshold), [text for text, _ in question.answers])[1]
        for question, answer in zip(questions, answers, strict=True)
    )


def test_the_threshold_is_the_best_of_all() -> None:
    generator = np.random.default_rng(0)
    words = CONTEXT.split()
    for _ in range(20):
        questions, answers = [], []
        for number in range(8):
            answerable = bool(generator.integers(2)) if number > 1 else bool(number)
            text = str(generator.choice(words))
            questions.append(asked(number, text) if answerable else asked(number))
            said = text if generator.random() < 0.6 else str(generator.choice(words))
            margin = float(generator.integers(-3, 4))  # with ties
            answers.append(Answered((said,), (0.0,), margin))
        found = f1_at(best_threshold(questions, answers), questions, answers)
        best = max(f1_at(threshold, questions, answers) for threshold in np.arange(-4.5, 5.0, 1.0))
        assert found == pytest.approx(best)


def test_without_a_choice_the_threshold_is_zero() -> None:
    answers = [Answered(("one",), (0.0,), 3.0)] * 2
    assert best_threshold([], []) == 0.0
    assert best_threshold([asked(0), asked(1)], answers) == 0.0
    assert best_threshold([asked(0, "one"), asked(1, "two")], answers) == 0.0


def test_a_threshold_for_questions_without_any_text() -> None:
    answers = [Answered((), (), 0.0)] * 2
    assert np.isfinite(best_threshold([asked(0, "one"), asked(1)], answers))
