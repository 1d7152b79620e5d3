# SPDX-License-Identifier: Apache-2.0
"""Windows of question answering: where an answer stands, at the edges of windows and of tokens."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

import tiny_tasks
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from spanbert_ext.evaluate.data.squad import Answer, Question
from spanbert_ext.evaluate.tasks.qa.options import QaOptions
from spanbert_ext.evaluate.tasks.qa.windows import answer_tokens, make_windows

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau phi chi".split()


def question(context: str, *answers: tuple[str, int], asked: str = "Which one?", number: int = 0) -> Question:
    for text, start in answers:
        assert context[start : start + len(text)] == text
    return Question(str(number), "article", context, asked, tuple(Answer(*answer) for answer in answers))


def windows_of(questions: list[Question], longest: int = 64, tokenizer=None, **options):
    tokenizer = tokenizer or tiny_tasks.tokenizer_of([" ".join(WORDS), "Which one? $ - . ,"])
    return make_windows(questions, tokenizer, QaOptions(**options), longest)


def text_at(window, asked: Question) -> str:
    first, last = answer_tokens(window, asked)
    return asked.context[window.offsets[first, 0] : window.offsets[last, 1]]


def test_a_row_is_the_question_then_the_context() -> None:
    tokenizer = tiny_tasks.tokenizer_of(["which one ? alpha beta"])
    (window,) = windows_of([question("alpha beta", ("beta", 6))], tokenizer=tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(window.row["input_ids"])
    assert tokens == ["[CLS]", "which", "one", "?", "[SEP]", "alpha", "beta", "[SEP]"]
    assert window.row["token_type_ids"] == [0, 0, 0, 0, 0, 1, 1, 1]
    assert window.offsets.tolist()[5:7] == [[0, 5], [6, 10]]
    assert window.of_context.tolist() == [False] * 5 + [True, True, False]
    assert window.cls == 0


@pytest.mark.parametrize(
    "context, answer, found",
    [
        ("alpha beta gamma", "beta", "beta"),
        ("alpha  beta\n\tgamma", "beta\n\tgamma", "beta\n\tgamma"),
        ("alpha beta gamma", " beta ", "beta"),  # marked with the spaces around it
        ("alpha beta gamma", "alpha beta gamma", "alpha beta gamma"),
        ("alpha (beta) gamma", "beta", "beta"),
        ("alpha betas gamma", "beta", "beta"),  # spelt: the answer ends inside a word
        ("alpha $beta gamma", "$beta", "$beta"),
        ("ALPHA Beta gamma", "Beta", "Beta"),  # lower-cased by the tokenizer, not in the text
        ("alpha bêta gamma", "bêta", "bêta"),  # an accent that the tokenizer drops
        ("alpha \u200bbeta gamma", "\u200bbeta", "beta"),  # a character that it drops
    ],
)
def test_answers_are_found_in_the_text(context: str, answer: str, found: str) -> None:
    asked = question(context, (answer, context.index(answer)))
    (window,) = windows_of([asked])
    assert text_at(window, asked) == found


def test_what_has_no_token_is_no_answer() -> None:
    asked = question("alpha \u200b beta", ("\u200b", 6))
    (window,) = windows_of([asked])
    assert answer_tokens(window, asked) == (window.cls, window.cls)


def test_an_unanswerable_question_points_to_cls() -> None:
    (window,) = windows_of([question("alpha beta")])
    assert answer_tokens(window, question("alpha beta")) == (0, 0)


def test_the_first_of_several_answers_is_trained_on() -> None:
    asked = question("alpha beta gamma", ("gamma", 11), ("beta", 6))
    (window,) = windows_of([asked])
    assert text_at(window, asked) == "gamma"


def test_a_long_context_is_cut_into_windows_that_overlap() -> None:
    context = " ".join(WORDS)
    asked = question(context)
    windows = windows_of([asked], longest=16, stride=4)
    room = 16 - 3 - 3  # of [CLS], two [SEP] and the question
    spans = [(w.offsets[w.of_context][0, 0], w.offsets[w.of_context][-1, 1]) for w in windows]
    texts = [context[start:end].split() for start, end in spans]
    assert [len(text) for text in texts[:-1]] == [room] * (len(texts) - 1)
    assert all(left[-4:] == right[:4] for left, right in zip(texts, texts[1:], strict=False))
    assert texts[0][0] == WORDS[0] and texts[-1][-1] == WORDS[-1]


def test_an_answer_that_a_window_cuts_is_none_of_that_window() -> None:
    context = " ".join(WORDS)
    plain = question(context)
    windows = windows_of([plain], longest=16, stride=4)
    inside = [context[w.offsets[w.of_context][0, 0] : w.offsets[w.of_context][-1, 1]] for w in windows]
    for first in range(len(WORDS)):
        for last in range(first, min(first + 6, len(WORDS))):
            text = " ".join(WORDS[first : last + 1])
            asked = question(context, (text, f" {context} ".index(f" {text} ")))
            for window, seen in zip(windows, inside, strict=True):
                whole = f" {text} " in f" {seen} "
                assert text_at(window, asked) == (text if whole else "")
                assert (answer_tokens(window, asked) == (window.cls, window.cls)) is not whole


def test_an_answer_may_begin_where_its_token_has_most_context() -> None:
    windows = windows_of([question(" ".join(WORDS))], longest=16, stride=4)
    for window in windows:
        assert not (window.begins & ~window.of_context).any()
    starts = [int(start) for window in windows for start in window.offsets[window.begins, 0]]
    assert sorted(starts) == sorted(set(starts)) and len(starts) == len(WORDS)  # each token in one window
    for left, right in zip(windows, windows[1:], strict=False):
        shared = set(left.offsets[left.of_context][:, 0]) & set(right.offsets[right.of_context][:, 0])
        by_left = [start for start in sorted(shared) if start in left.offsets[left.begins, 0]]
        assert by_left == sorted(shared)[: len(by_left)]  # the left window has the left half
        assert 0 < len(by_left) < len(shared)


def test_a_question_that_is_too_long_is_cut_and_leaves_its_context_room() -> None:
    asked = question("alpha beta gamma", ("gamma", 11), asked=" ".join(WORDS * 10))
    windows = windows_of([asked], longest=32, max_question=64)
    assert all(len(window.row["input_ids"]) <= 32 for window in windows)
    assert any(text_at(window, asked) == "gamma" for window in windows)
    assert int((windows[0].row["input_ids"]).index(3)) == 1 + 8  # a quarter of the window, after [CLS]


def test_spaces_around_a_question_do_not_count() -> None:
    a, b = (windows_of([question("alpha beta", asked=text)])[0] for text in ("Which one?", "\n Which one? "))
    assert a.row == b.row


def test_questions_keep_their_numbers() -> None:
    long = question(" ".join(WORDS))
    windows = windows_of([question("alpha"), long, question("beta")], longest=16, stride=4)
    assert [w.question for w in windows][0] == 0 and windows[-1].question == 2
    assert [w.question for w in windows] == sorted(w.question for w in windows)


def test_byte_level_tokenizers_without_token_types() -> None:
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    base.train_from_iterator([" ".join(WORDS)], trainer)
    base.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base, model_input_names=["input_ids", "attention_mask"], **names
    )
    context = "alpha  beta gamma “delta” epsilon"
    for answer in ("alpha", "beta", "beta gamma", "delta", "“delta”", "epsilon"):
        asked = question(context, (answer, context.index(answer)))
        (window,) = windows_of([asked], longest=128, tokenizer=tokenizer)
        assert "token_type_ids" not in window.row
        assert text_at(window, asked) == answer
