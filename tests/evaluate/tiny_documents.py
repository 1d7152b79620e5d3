# SPDX-License-Identifier: Apache-2.0
"""Small documents, pronouns and relations in the formats of their data sets, written by hand."""

from __future__ import annotations

import re
from pathlib import Path

from tiny_tasks import tokenizer_of
from transformers import BertTokenizerFast

# Sentences of words; a mention is [number of its cluster|words].
DOCUMENTS = {
    "lamp": [
        "[1|Anna] built [2|a tall tower] in 1842 .",
        "[1|She] lived below [2|it] and painted [3|[1|her] boat] .",
        "One day [3|the boat] sank , but [2|the tower] stood .",
    ],
    "farm": [
        "[1|The farm] sells [2|red plums] .",
        "[3|Tom] likes [2|them] , so [3|he] visits [1|the farm] every week .",
        "[4|A dog] guards [1|it] .",
    ],
    "line": [
        "[1|A train] carried [2|milk] to [3|the city] .",
        "[3|The city] drank [2|it] warm .",
        "[1|The train] was slow , yet [1|it] never stopped .",
    ],
    "song": [
        "[1|Two girls] sang [2|a song] for [3|Joan] .",
        "[3|Joan] knew [2|the song] and thanked [1|them] .",
        "[1|The girls] gave [3|her] [4|a ring] .",
    ],
}

_TOKEN = re.compile(r"\[(\d+)\||(\])|([^\s\[\]]+)")


def conll(name: str, sentences: list[str]) -> str:
    """A document as CoNLL-2012 writes it."""
    lines, open_numbers = [f"#begin document ({name}); part 000"], []
    for sentence in sentences:
        for number, word in enumerate(_words(sentence, open_numbers)):
            text, brackets = word
            lines.append("\t".join([name, "0", str(number), text, *["-"] * 7, "|".join(brackets) or "-"]))
        lines.append("")
    return "\n".join([*lines, "#end document", ""])


def _words(sentence: str, open_numbers: list[str]) -> list[tuple[str, list[str]]]:
    words: list[tuple[str, list[str]]] = []
    opening: list[str] = []
    for opens, closes, text in _TOKEN.findall(sentence):
        if opens:
            opening.append(opens)
            open_numbers.append(opens)
        elif closes:
            number = open_numbers.pop()
            brackets = words[-1][1]
            if f"({number}" in brackets:
                brackets[brackets.index(f"({number}")] = f"({number})"
            else:
                brackets.append(f"{number})")
        else:
            words.append((text, [f"({number}" for number in opening]))
            opening = []
    return words


def write_conll(folder: Path, names: list[str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or list(DOCUMENTS):
        (folder / f"{name}.conll").write_text(conll(name, DOCUMENTS[name]), encoding="utf-8")
    return folder


def plain_texts() -> list[str]:
    return [re.sub(r"\[\d+\||\]", "", sentence) for sentences in DOCUMENTS.values() for sentence in sentences]


# --- Relations ----------------------------------------------------------------------------------------------------

_CAUSES = ["storm", "fire", "flood", "frost"]
_EFFECTS = ["damage", "panic", "delay", "loss"]
_BOXES = ["box", "bag", "drawer", "basket"]
_THINGS = ["ring", "letter", "apple", "coin"]


def semeval() -> str:
    """Sentences of four labels, in TRAIN_FILE.TXT's format."""
    found = []
    for cause, effect, box, thing in zip(_CAUSES, _EFFECTS, _BOXES, _THINGS, strict=True):
        found += [
            (f"The <e1>{cause}</e1> caused great <e2>{effect}</e2>.", "Cause-Effect(e1,e2)"),
            (f"The <e1>{effect}</e1> came from the <e2>{cause}</e2>.", "Cause-Effect(e2,e1)"),
            (f"A <e1>{thing}</e1> lay in the <e2>{box}</e2>.", "Content-Container(e1,e2)"),
            (f"The <e1>{box}</e1> is near a <e2>{cause}</e2>.", "Other"),
        ]
    lines = []
    for number, (sentence, label) in enumerate(found, 1):
        lines += [f'{number}\t"{sentence}"', label, "Comment:", ""]
    return "\n".join(lines)


def relation_texts() -> list[str]:
    return [re.sub(r"</?e\d>", "", line) for line in semeval().splitlines() if '"' in line]


# --- Pronouns -----------------------------------------------------------------------------------------------------


def gap() -> str:
    rows = ["ID\tText\tPronoun\tPronoun-offset\tA\tA-offset\tA-coref\tB\tB-offset\tB-coref\tURL"]
    people = [("Anna", "Joan", "She"), ("Tom", "Paul", "He"), ("Joan", "Mary", "her"), ("Paul", "Tom", "him")]
    for number in range(12):
        a, b, pronoun = people[number % 4]
        text = f"{a} met {b} in the city . {pronoun} was glad ."
        columns = [
            f"development-{number + 1}",
            text,
            pronoun,
            str(text.index(pronoun)),
            a,
            str(text.index(a)),
            str(number % 3 == 0).upper(),
            b,
            str(text.index(b)),
            str(number % 3 == 1).upper(),
            f"http://pages/{number // 2}",
        ]
        rows.append("\t".join(columns))
    return "\n".join(rows) + "\n"


def tokenizer(**options) -> BertTokenizerFast:
    """Of all the texts here."""
    return tokenizer_of([*plain_texts(), *relation_texts(), gap()], **options)
