# SPDX-License-Identifier: Apache-2.0
"""SQuAD and QAMR: questions whose answers stand where they say, and errors that name the place."""

from __future__ import annotations

import json
from pathlib import Path

import downstream_samples as samples
import pytest

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.qamr import read_qamr
from spanbert_ext.evaluate.data.squad import Answer, read_squad


def test_squad(tmp_path: Path) -> None:
    answered, impossible, older = read_squad(samples.write_squad(tmp_path / "dev.json"))
    assert answered.answers == (Answer("France", 91), Answer("in France", 88)) and answered.answerable
    assert (answered.id, answered.article, answered.context) == ("56ddde6b", "Normans", samples.CONTEXT)
    assert impossible.answers == () and not impossible.answerable
    assert older.answers == (Answer("Îlé", 2),)  # offsets count characters, not bytes


def test_a_folder_of_squad_files_is_read_whole(tmp_path: Path) -> None:
    samples.write_squad(tmp_path / "b.json", id="b")
    other = samples.squad_file(id="a")
    del other["data"][0]["paragraphs"][0]["qas"][1], other["data"][1]
    (tmp_path / "a.json").write_text(json.dumps(other))
    assert [question.id for question in read_squad(tmp_path)] == ["a", "b", "5ad39d53", "q3"]
    samples.write_squad(tmp_path / "a.json", id="b")
    with pytest.raises(DataError, match=r"b\.json: data\[0\].*qas\[0\]\.id: 'b' is the id of another"):
        read_squad(tmp_path)


def test_articles_without_a_title_are_groups_of_their_own_and_ids_may_be_numbers(tmp_path: Path) -> None:
    content = samples.squad_file(id=7)
    del content["data"][0]["title"]
    content["data"][1]["title"] = " "
    (tmp_path / "dev.json").write_text(json.dumps(content))
    questions = read_squad(tmp_path / "dev.json")
    assert [question.article for question in questions] == ["dev.json data[0]"] * 2 + ["dev.json data[1]"]
    assert questions[0].id == "7"
    content["data"][1]["paragraphs"][0]["qas"][0]["id"] = "7"
    (tmp_path / "dev.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"data\[1\].*id: '7' is the id of another question"):
        read_squad(tmp_path / "dev.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": [{"text": "France", "answer_start": 90}]}, r"answer_start: at 90 stands .*has it at 91"),
        ({"answers": [{"text": "Spain", "answer_start": 91}]}, "the context does not have it"),
        ({"answers": [{"text": "France", "answer_start": -7}]}, "at -7 stands"),
        ({"answers": [{"text": "France", "answer_start": 9000}]}, "at 9000 stands ''"),
        ({"answers": [{"text": "France", "answer_start": "91"}]}, "expected a whole number, found '91'"),
        ({"answers": [{"text": "France", "answer_start": True}]}, "expected a whole number, found True"),
        ({"answers": [{"text": "", "answer_start": 3}]}, r"answers\[0\]\.text: is empty"),
        ({"answers": [{"text": " ", "answer_start": 3}]}, r"answers\[0\]\.text: is empty"),
        ({"answers": [{"text": "France", "answer_begin": 91}]}, r"answers\[0\]: has no 'answer_start'"),
        ({"answers": "France"}, "expected a list"),
        ({"answers": []}, "has no answer, and is_impossible is not true"),
        ({"is_impossible": True}, "is_impossible is true, but there are answers"),
        ({"id": None}, "id: expected a string, found None"),
        ({"id": True}, "id: expected a string, found True"),
        ({"is_impossible": "no"}, "expected true or false"),
        ({"question": "\ud83d?"}, r"question: holds \\ud83d alone, which is half of a character"),
        ({"question": None}, r"question: expected a string, found None"),
        ({"id": "q3"}, "'q3' is the id of another question"),
    ],
)
def test_wrong_questions_name_their_place(tmp_path: Path, changes: dict, message: str) -> None:
    path = samples.write_squad(tmp_path / "dev.json", **changes)
    with pytest.raises(DataError, match=message) as error:
        read_squad(path)
    place = r"data[1]" if "q3" in changes.values() else "data[0].paragraphs[0].qas[0]"
    assert str(error.value).startswith(f"{path}: {place}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"data": [', r"dev\.json:1: is not JSON"),
        ('{\n\n"data": [],}', r"dev\.json:3: is not JSON"),
        ('{"data": []}', "holds no question"),
        ("[]", "expected an object, found \\[\\]"),
        ('{"dta": []}', "has no 'data'; perhaps 'dta'"),
        ('{"data": [{"title": "a"}]}', r"data\[0\]: has no 'paragraphs'"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "dev.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_squad(tmp_path / "dev.json")


def write_qamr(folder: Path, pairs: str = samples.QAMR_PAIRS) -> tuple[Path, Path]:
    (folder / "dev.tsv").write_text(pairs)
    (folder / "wiki-sentences.tsv").write_text(samples.QAMR_SENTENCES)
    return folder / "dev.tsv", folder / "wiki-sentences.tsv"


def test_qamr(tmp_path: Path) -> None:
    what, how_many, where = read_qamr(*write_qamr(tmp_path))
    assert what.context == 'Each tirthankara ( of " 24 " ) has an emblem .'
    assert [answer.text for answer in what.answers] == ["an emblem", "emblem", "an emblem"]
    # From the first of the tokens 2, 5 and 7 to the last; verdicts are no answers.
    assert [answer.text for answer in how_many.answers] == ['( of " 24 " )']
    assert where.article == "Wiki1k:wikinews:2:0:0"
    for question in (what, how_many, where):
        for answer in question.answers:
            assert question.context[answer.start :].startswith(answer.text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\t60:9 10", "", "dev.tsv:1: has 8 columns; expected 9"),
        ("\t9 10\t", "\t9 99\t", "dev.tsv:1: an answer has the token 99, the sentence only 12 tokens"),
        ("\t9 10\t", f"\t{'9' * 5000}\t", "dev.tsv:1: an answer is '9999"),
        ("\t9 10\t", "\tan emblem\t", "dev.tsv:1: an answer is 'an emblem'"),
        ("wikinews:2", "wikinews:3", "dev.tsv:3: the sentence 'Wiki1k:wikinews:3:0:0' is not in"),
        ("76\t1", "76\t0", "dev.tsv:2: this pair .* occurs twice"),
    ],
)
def test_wrong_pairs_name_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in samples.QAMR_PAIRS
    with pytest.raises(DataError, match=message):
        read_qamr(*write_qamr(tmp_path, samples.QAMR_PAIRS.replace(old, new)))


def test_sentences_are_one_of_an_id_and_answers_have_characters(tmp_path: Path) -> None:
    pairs, sentences = write_qamr(tmp_path)
    sentences.write_text(samples.QAMR_SENTENCES * 2)
    assert len(read_qamr(pairs, sentences)) == 3  # the same again changes nothing
    sentences.write_text(samples.QAMR_SENTENCES + "Wiki1k:wikinews:2:0:0\tAnother one .\n")
    with pytest.raises(
        DataError, match=r"wiki-sentences\.tsv:3: 'Wiki1k:wikinews:2:0:0' is the id of another"
    ):
        read_qamr(pairs, sentences)
    sentences.write_text(samples.QAMR_SENTENCES.replace("in Ohio", "in  Ohio"))
    with pytest.raises(DataError, match=r"dev\.tsv:3: an answer is '4', tokens without characters"):
        read_qamr(pairs, sentences)
