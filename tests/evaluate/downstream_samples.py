# SPDX-License-Identifier: Apache-2.0
"""A few lines of each downstream format, in the shape that the real files have."""

from __future__ import annotations

import json
from pathlib import Path

CONTEXT = "The Normans (Norman: Nourmands; French: Normands) gave their name to Normandy, a region in France."


def squad_file(**changes: object) -> dict:
    """A SQuAD 2.0 file of two articles; `changes` replace keys of its first question."""
    answered = {
        "question": "In what country is Normandy located?",
        "id": "56ddde6b",
        "answers": [{"text": "France", "answer_start": 91}, {"text": "in France", "answer_start": 88}],
        "is_impossible": False,
    }
    answered.update(changes)
    impossible = {
        "question": "Who left Normandy?",
        "id": "5ad39d53",
        "answers": [],
        "plausible_answers": [{"text": "Normans", "answer_start": 4}],
        "is_impossible": True,
    }
    older = {
        "question": "Quel fleuve?",
        "id": "q3",
        "answers": [{"text": "Îlé", "answer_start": 2}],
    }  # of SQuAD 1.1
    return {
        "version": "v2.0",
        "data": [
            {"title": "Normans", "paragraphs": [{"context": CONTEXT, "qas": [answered, impossible]}]},
            {"title": "Rivers", "paragraphs": [{"context": "L'Îlé.", "qas": [older]}]},
        ],
    }


def write_squad(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps(squad_file(**changes)), encoding="utf-8")
    return path


QAMR_SENTENCES = (
    "Wiki1k:wikipedia:1:0:0\tEach tirthankara -LRB- of `` 24 '' -RRB- has an emblem .\n"
    "Wiki1k:wikinews:2:0:0\tArmstrong was born in Ohio .\n"
)
QAMR_PAIRS = (
    "Wiki1k:wikipedia:1:0:0\t3 4\t76\t0\t3\tWhat does each have?\t9 10\t261:10\t60:9 10\n"
    "Wiki1k:wikipedia:1:0:0\t3 4\t76\t1\t4\tHow many are there?\t2 5 7\t261:Invalid\t60:Redundant-0\n"
    "Wiki1k:wikinews:2:0:0\t0 4\t9\t0\t4\tWhere?\t4\t261:3 4\t60:4\n"
)

# One word a line: number, word, coreference; no sentences, no name (OntoGUM).
ONTOGUM = """# begin document
0\tNORTON\t(14(1
1\tI\t_
2\tof\t_
3\tAmerica\t1)(13)14)
4\tsaw\t_
5\t\t_
6\thimself\t(1)
7\tand\t_
8\this\t(2(1)
9\tdog\t2)
10\tthere\t(13)
11\t.\t_
# end document
"""


def litbank_lines(name: str, words: list[tuple[str, str] | None]) -> str:
    """A document of LitBank: None ends a sentence."""
    lines, number = [f"#begin document ({name}); part 0"], 0
    for entry in words:
        if entry is None:
            lines.append("")
            number = 0
            continue
        lines.append("\t".join([name, "0", str(number), entry[0], *["_"] * 8, entry[1]]))
        number += 1
    return "\n".join([*lines, "", "#end document"]) + "\n"


LITBANK = litbank_lines(
    "345_dracula_brat",
    [("JONATHAN", "(0"), ("HARKER", "0)"), ("'S", ""), ("JOURNAL", "(1)"), ("(", ""), ("_", ""), None]
    + [("His", "(7|(0)"), ("friend", "7)"), ("left", ""), ("Munich", "(2)"), (".", "")],
)

# CoNLL-2012: columns between blanks, as many as a sentence has predicates, two parts.
CONLL_2012 = """#begin document (bn/abc/00/abc_0001); part 000
bn/abc/00/abc_0001   0   0   She   PRP   (TOP(S*   -   -   -   Anchor   *   *   (5)
bn/abc/00/abc_0001   0   1   agreed   VBD   *   -   -   -   Anchor   *   -
bn/abc/00/abc_0001   0   2   /.   .   *))   -   -   -   Anchor   *   *   -

#end document
#begin document (bn/abc/00/abc_0001); part 001
bn/abc/00/abc_0001   1   0   Yes   UH   *   -   -   -   Anchor   *   -
#end document
"""

GAP_HEADER = "ID\tText\tPronoun\tPronoun-offset\tA\tA-offset\tA-coref\tB\tB-offset\tB-coref\tURL\n"
GAP = (
    GAP_HEADER
    + "d-1\tCheryl, Pauline's friend, lost her hat.\ther\t31\tCheryl\t0\tTRUE\tPauline\t8\tFALSE\thttp://w/1\n"
    + "d-2\tFred saw Gordon. His dog ran.\tHis\t17\tFred\t0\tfalse\tGordon\t9\ttrue\thttp://w/2\n"
    + "d-3\tFred, Gordon: he.\the\t14\tFred\t0\tFALSE\tGordon\t6\tFALSE\thttp://w/2\n"
)

SEMEVAL = (
    '1\t"The system has its use in a <e1>configuration</e1> of <e2>elements</e2>."\r\n'
    "Component-Whole(e2,e1)\r\nComment: Not a collection.\r\n\r\n"
    '20\t""Any time," he told the <e1>boy</e1> in the <e2>desk</e2>."\r\nOther\r\nComment:\r\n\r\n'
)

TACRED = [
    {
        "id": "e779865fb9",
        "docid": "AFP_1",
        "relation": "org:founded_by",
        "token": ["Tom", "founded", "Tally-Ho", "-LRB-", "Inc", "-RRB-"],
        "subj_start": 2,
        "subj_end": 4,
        "obj_start": 0,
        "obj_end": 0,
        "subj_type": "ORGANIZATION",
        "obj_type": "PERSON",
    }
]

MARKED = [
    {"text": "<< EGFR >> inhibitors ([[ Iressa ]], ZD1839) >> more.", "label": "INHIBITOR", "metadata": []},
    {"text": "<< [[ speech ]] recognition >> works .", "label": "PART-OF", "metadata": [0, 0, 0, 1]},
    {"text": "[[ EGFR ]] inhibitors (<< Iressa >>, ZD1839) >> more.", "label": "INHIBITOR", "metadata": []},
]


def json_lines(records: list[dict]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
