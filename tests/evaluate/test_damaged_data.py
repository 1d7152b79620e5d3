# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to a file of data, a reader returns records that hold together, or says where the file is wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import downstream_samples as samples
import pytest

from spanbert_ext.evaluate.data.conll import read_conll
from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.gap import read_gap
from spanbert_ext.evaluate.data.glue import read_glue
from spanbert_ext.evaluate.data.qamr import read_qamr
from spanbert_ext.evaluate.data.relations import Relation, read_marked, read_semeval, read_tacred
from spanbert_ext.evaluate.data.squad import Question, read_squad


def questions_hold(questions: Iterable[Question]) -> bool:
    return all(
        question.context[answer.start :].startswith(answer.text) and answer.text
        for question in questions
        for answer in question.answers
    )


def relations_hold(relations: Iterable[Relation]) -> bool:
    return all(
        0 <= start < end <= len(relation.text) and relation.label is not None
        for relation in relations
        for start, end in (relation.head, relation.tail)
    )


def documents_hold(path: Path) -> bool:
    for document in read_conll(path):
        mentions = [mention for cluster in document.clusters for mention in cluster]
        assert len(mentions) == len(set(mentions))
        assert all(0 <= first <= last < len(document.words) for first, last in mentions)
    return True


def qamr_holds(path: Path) -> bool:
    sentences = path.with_name("wiki-sentences.tsv")
    sentences.write_text(samples.QAMR_SENTENCES)
    return questions_hold(read_qamr(path, sentences))


CHECKS: dict[str, tuple[str, Callable[[Path], bool]]] = {
    "squad": (json.dumps(samples.squad_file()), lambda path: questions_hold(read_squad(path))),
    "qamr": (samples.QAMR_PAIRS, qamr_holds),
    "ontogum": (samples.ONTOGUM, documents_hold),
    "litbank": (samples.LITBANK, documents_hold),
    "gap": (
        samples.GAP,
        lambda path: all(one.text[one.a_start :].startswith(one.a) for one in read_gap(path)),
    ),
    "semeval": (samples.SEMEVAL, lambda path: relations_hold(read_semeval(path))),
    "tacred": (json.dumps(samples.TACRED), lambda path: relations_hold(read_tacred(path))),
    "marked": (samples.json_lines(samples.MARKED), lambda path: relations_hold(read_marked(path))),
    "glue": (
        "index\tsentence1\tsentence2\tscore\n0\tA man.\tA hat.\t5.000\n1\tA.\tB.\t0.25\n",
        lambda path: all(0 <= one.label <= 5 for one in read_glue("sts-b", path)),
    ),
}


def damaged(text: str, drawn: random.Random) -> bytes:
    """`text` with one to three places deleted, repeated or overwritten, as characters or bytes."""
    for _ in range(drawn.randint(1, 3)):
        begin = drawn.randrange(len(text))
        end = begin + drawn.choice([0, 1, 1, 3, 30])
        new = drawn.choice(
            ["", "\n", "\t", "(", "7", '"', "null", "\0", " ", text[begin:end] * 2, "<<", "[[ "]
        )
        text = (text[:begin] + new + text[end:]) or " "
    content = text.encode()
    return content[: drawn.randrange(len(content))] if drawn.random() < 0.1 else content


@pytest.mark.parametrize("name", CHECKS)
def test_damage_is_data_or_a_data_error(tmp_path: Path, name: str) -> None:
    sound, check = CHECKS[name]
    path, drawn, refused = tmp_path / "data.txt", random.Random(0), 0
    path.write_bytes(sound.encode())
    assert check(path)
    for _ in range(150):
        path.write_bytes(damaged(sound, drawn))
        try:
            assert check(path)
        except DataError as error:
            assert str(error).startswith(str(path))
            refused += 1
    assert refused > 15
