# SPDX-License-Identifier: Apache-2.0
"""Relations and GLUE: labels that are known, spans that are where the markers were."""

from __future__ import annotations

import json
from pathlib import Path

import downstream_samples as samples
import pytest

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.glue import GLUE_TASKS, read_glue
from spanbert_ext.evaluate.data.relations import (
    SEMEVAL_LABELS,
    Relation,
    read_marked,
    read_semeval,
    read_tacred,
)


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def spans(relation: Relation) -> tuple[str, str]:
    return relation.text[slice(*relation.head)], relation.text[slice(*relation.tail)]


def test_semeval(tmp_path: Path) -> None:
    first, second = read_semeval(write(tmp_path / "TRAIN_FILE.TXT", samples.SEMEVAL))
    assert first.text == "The system has its use in a configuration of elements."
    assert spans(first) == ("configuration", "elements")
    assert (first.id, first.label) == ("1", "Component-Whole(e2,e1)")
    assert second.text == '"Any time," he told the boy in the desk.' and spans(second) == ("boy", "desk")
    assert len(SEMEVAL_LABELS) == len(set(SEMEVAL_LABELS)) == 19


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Component-Whole(e2,e1)", "Component-Whole(e2;e1)", "T:2: the label .* perhaps 'Component-Whole"),
        ("Other", "Nothing", "T:6: the label 'Nothing' is unknown; "),
        ("<e1>boy</e1>", "boy", "T:5: has '<e1>' 0 times; expected once"),
        ("</e2>.", ".", "T:1: has no '</e2>' after '<e2>'"),
        ("<e1>boy</e1>", "<e1></e1>", "T:5: marks an empty span by '<e1>'"),
        ("<e1>boy</e1>", "<e1> \u00a0</e1>", "T:5: marks an empty span by '<e1>'"),
        ("<e1>boy</e1>", "<e1>boy</e1> <e1>", "T:5: has '<e1>' 2 times"),
        ('1\t"The', "1 The", "T:1: expected a number, a tab and a sentence"),
        ("20\t", "1\t", "T:5: 1 is the number of another sentence"),
        ("Other\r\n", "\r\n", "T:5: the sentence has no label"),
        (samples.SEMEVAL, "\n", "T: holds no sentence"),
    ],
)
def test_wrong_sentences_name_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in samples.SEMEVAL
    with pytest.raises(DataError, match=message):
        read_semeval(write(tmp_path / "T", samples.SEMEVAL.replace(old, new)))


def test_tacred(tmp_path: Path) -> None:
    (relation,) = read_tacred(write(tmp_path / "dev.json", json.dumps(samples.TACRED)))
    assert relation.text == "Tom founded Tally-Ho ( Inc )"
    assert spans(relation) == ("Tally-Ho ( Inc", "Tom")
    assert (relation.head_type, relation.tail_type) == ("ORGANIZATION", "PERSON")
    assert (relation.label, relation.group) == ("org:founded_by", "AFP_1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subj_end": 6}, r"\[0\]\.subj_end: 2 to 6 is no span of 6 tokens"),
        ({"obj_start": 1}, r"\[0\]\.obj_end: 1 to 0 is no span"),
        ({"relation": "org:founded"}, r"\[0\]\.relation: the label .* perhaps 'org:founded_by'"),
        (
            {"token": ["Tom", "", *"abcd"], "obj_start": 1, "obj_end": 1},
            r"\[0\]\.obj_start: 1 to 1 are tokens",
        ),
        ({"obj_type": 3}, r"\[0\]\.obj_type: expected a string, found 3"),
    ],
)
def test_wrong_tacred_examples_name_their_place(tmp_path: Path, change: dict, message: str) -> None:
    path = write(tmp_path / "dev.json", json.dumps([samples.TACRED[0] | change]))
    with pytest.raises(DataError, match=message):
        read_tacred(path, labels=["no_relation", "org:founded_by"])


def test_marked_spans_may_nest_and_texts_may_hold_brackets_of_their_own(tmp_path: Path) -> None:
    first, nested, third = read_marked(write(tmp_path / "dev.txt", samples.json_lines(samples.MARKED)))
    assert first.text == "EGFR inhibitors (Iressa, ZD1839) >> more." and spans(first) == ("Iressa", "EGFR")
    assert nested.text == "speech recognition works ." and spans(nested) == ("speech", "speech recognition")
    assert spans(third) == ("EGFR", "Iressa")
    assert [relation.group for relation in (first, nested, third)] == ["1", "2", "1"]  # two of one text


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "<< a >> b", "label": "INHIBITOR"}, r"d:1: text: has '\[\[' 0 times"),
        ({"text": "<< a >> [[ b", "label": "INHIBITOR"}, r"d:1: text: has no '\]\]' after"),
        ({"text": "<< a >> [[ b ]]", "label": "INHIBITORS"}, "d:1: label: the label .* perhaps 'INHIBITOR'"),
        ({"text": "<< a [[ ]] >>", "label": "INHIBITOR"}, "d:1: text: has"),
        ({"text": "<< a >> [[   ]]", "label": "INHIBITOR"}, r"d:1: text: marks an empty span by '\[\['"),
        ({"text": "<< a >> [[ b ]]"}, "d:1: has no 'label'"),
    ],
)
def test_wrong_marked_texts_name_their_line(tmp_path: Path, record: dict, message: str) -> None:
    path = write(tmp_path / "d", samples.json_lines([record]))
    with pytest.raises(DataError, match=message):
        read_marked(path, labels=["INHIBITOR"])


def test_a_line_that_is_no_json_names_itself(tmp_path: Path) -> None:
    path = write(tmp_path / "d", samples.json_lines(samples.MARKED[:1]) + "{\n")
    with pytest.raises(DataError, match="d:2: is not JSON"):
        read_marked(path)


GLUE_FILES = {
    "cola": "gj04\t1\t\tThe sailors rode.\ngj04\t0\t*\tThe weights rope \x85 stretch.\n",
    "sst-2": "sentence\tlabel\nunflinchingly bleak \t0\nit 's a charming journey . \t1\n",
    "mrpc": '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\t" A .\tB .\n0\t3\t4\tC .\tD .\n',
    "sts-b": "index\tgenre\tsentence1\tsentence2\tscore\n0\tm\tA man.\tA hat.\t5.000\n1\tm\tA.\tB.\t0.25\n",
    "rte": "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tnot_entailment\n1\tC.\tD.\tentailment\n",
}


@pytest.mark.parametrize(
    ("task", "labels"),
    [("cola", [1, 0]), ("sst-2", [0, 1]), ("mrpc", [1, 0]), ("sts-b", [5.0, 0.25]), ("rte", [1, 0])],
)
def test_glue(tmp_path: Path, task: str, labels: list) -> None:
    examples = read_glue(task, write(tmp_path / "dev.tsv", GLUE_FILES[task]))
    assert [example.label for example in examples] == labels
    assert (examples[0].text_b is None) == (GLUE_TASKS[task].text_b is None)
    begin = 1 if task == "cola" else 2
    assert [example.id for example in examples] == [str(begin), str(begin + 1)]


def test_quotation_marks_and_other_line_ends_are_text(tmp_path: Path) -> None:
    assert read_glue("mrpc", write(tmp_path / "m", GLUE_FILES["mrpc"]))[0].text_a == '" A .'
    assert read_glue("cola", write(tmp_path / "c", GLUE_FILES["cola"]))[1].text_a.endswith("\x85 stretch.")


@pytest.mark.parametrize(
    ("task", "old", "new", "message"),
    [
        ("rte", "\tlabel\n", "\tlable\n", "dev.tsv:1: has no column 'label' .* perhaps 'lable'"),
        ("rte", "\tnot_entailment", "\tneutral", "dev.tsv:2: the label 'neutral' is unknown"),
        ("rte", "\tC.", "", "dev.tsv:3: has 3 columns; expected 4"),
        ("rte", "\tC.", "\t ", "dev.tsv:3: a text is empty"),
        ("sts-b", "0.25", "five", "dev.tsv:3: the label is 'five'; expected a number from 0 to 5"),
        ("sts-b", "0.25", "0_1", "dev.tsv:3: the label is '0_1'"),
        ("sts-b", "0.25", "5.1", "dev.tsv:3: the label is '5.1'"),
        ("sts-b", "0.25", "nan", "dev.tsv:3: the label is 'nan'"),
        ("cola", "\t0\t", "\t2\t", "dev.tsv:2: the label '2' is unknown"),
        ("cola", "\t*", "", "dev.tsv:2: has 3 columns; expected 4"),
        ("sst-2", GLUE_FILES["sst-2"][15:], "", "dev.tsv: holds no example"),
        ("sst-2", GLUE_FILES["sst-2"], "", "dev.tsv:1: has no column 'sentence'"),
    ],
)
def test_wrong_glue_files_name_their_line(
    tmp_path: Path, task: str, old: str, new: str, message: str
) -> None:
    assert old in GLUE_FILES[task]
    with pytest.raises(DataError, match=message):
        read_glue(task, write(tmp_path / "dev.tsv", GLUE_FILES[task].replace(old, new)))


def test_an_unknown_task_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="task is 'cOLA'; expected one of cola, sst-2"):
        read_glue("cOLA", tmp_path)


def test_lines_of_qqp_that_are_cut_in_two_are_left_out_and_missing_questions_are_empty(
    tmp_path: Path,
) -> None:
    lines = [
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "1\t1\t2\tA?\tB?\t1",
        "2\t3\t4\tC",
        "D?\t0",
        "3\t5\t6\tHow can I create an Android app?\t\t0",
    ]
    example, lacking = read_glue("qqp", write(tmp_path / "dev.tsv", "\n".join(lines) + "\n"))
    assert (example.text_a, example.text_b, example.label) == ("A?", "B?", 1)
    assert (lacking.id, lacking.text_b, lacking.label) == ("5", "", 0)
