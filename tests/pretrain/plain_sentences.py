# SPDX-License-Identifier: Apache-2.0
"""The rule of sentences as people read it: at each end it looks at the whole sentence, which takes quadratic time."""

from __future__ import annotations

import re

ABBREVIATIONS = (
    "Mr Mrs Ms Dr Prof St Jr Sr vs No Fig Eq Sec Vol pp cf al e.g i.e etc Inc Ltd Co Gen Col Capt Lt Sgt Rev "
    "Gov Sen Rep U.S"
)
OPEN, CLOSE = "\"'\u201c\u2018(\\[", "\"'\u201d\u2019)\\]\u300d\u300f"
CJK = "\u3002\uff01\uff1f"
SENTENCE_END = re.compile(
    rf"[.!?\u2026]+[{CLOSE}]*(?=\s+[{OPEN}]*[^\Wa-z_])\s+|[{CJK}]+[{CLOSE}]*(?=[^\s{CJK}{CLOSE}])"
)
NO_END = re.compile(rf"(?:^|[\s{OPEN}])(?:[^\W\d_]|{'|'.join(map(re.escape, ABBREVIATIONS.split()))})\.$")


def plain_split(text: str) -> list[str]:
    sentences = []
    for line in text.split("\n"):
        start = 0
        for match in SENTENCE_END.finditer(line):
            sentence = line[start : match.end()].rstrip()
            if not NO_END.search(sentence):
                sentences.append(sentence)
                start = match.end()
        if line[start:].strip():
            sentences.append(line[start:].strip())
    return sentences
