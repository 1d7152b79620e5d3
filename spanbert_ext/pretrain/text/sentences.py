# SPDX-License-Identifier: Apache-2.0
"""Where the sentences of a text begin and end, in time and memory proportional to the text, whatever it holds."""

from __future__ import annotations

import re
from collections.abc import Iterator

# A sentence ends at a line's end, or after . ! ? … (and closing quotes or brackets) before white space and
# something that may start one; after a CJK full stop always. Not after an initial or one of these
# abbreviations.
_ABBREVIATIONS = (
    "Mr Mrs Ms Dr Prof St Jr Sr vs No Fig Eq Sec Vol pp cf al e.g i.e etc Inc Ltd Co Gen Col Capt Lt Sgt Rev "
    "Gov Sen Rep U.S"
).split()
_OPEN, _CLOSE = "\"'\u201c\u2018(\\[", "\"'\u201d\u2019)\\]\u300d\u300f"  # quotes and brackets
_STOP, _CJK_STOP = ".!?\u2026", "\u3002\uff01\uff1f"
# A row of CJK stops belongs to one sentence, and the quotes and brackets that close it too.
# Only the first stop of a row of stops is tried: what fails there fails at each later one, after as long a search.
_SENTENCE_END = re.compile(
    rf"(?:(?<![{_STOP}])([{_STOP}]+[{_CLOSE}]*)(?=\s+[{_OPEN}]*[^\Wa-z_])\s+"
    rf"|(?<![{_CJK_STOP}])[{_CJK_STOP}]+[{_CLOSE}]*(?=[^\s{_CJK_STOP}{_CLOSE}]))"
)
_NO_END = re.compile(rf"(?:^|[\s{_OPEN}])(?:[^\W\d_]|{'|'.join(map(re.escape, _ABBREVIATIONS))})\.$")
_NO_END_SEES = max(map(len, _ABBREVIATIONS)) + 2  # what stands before, and the full stop

# A longer sentence is cut, at white space where there is some: no tokenizer is given more at once.
LONGEST = 100_000


def cut_text(text: str, start: int, end: int, longest: int = LONGEST) -> Iterator[tuple[int, int]]:
    """Stretches `(start, end)` of `text[start:end]`, which begins and ends without white space: in order, each of at
    most `longest` characters, cut at white space, or inside a longer run of other characters."""
    while end - start > longest:
        head = text[start : start + longest + 1]
        whole = head.rstrip() if head[-1].isspace() else head.rsplit(None, 1)[0]
        stop = start + min(len(whole), longest)
        yield start, stop
        start = stop
        while start < end and text[start].isspace():
            start += 1
    yield start, end


def sentence_spans(text: str, longest: int = LONGEST) -> Iterator[tuple[int, int]]:
    """`(start, end)` of each sentence of a document, in order: what lies between them is white space."""
    line_start = 0
    while line_start <= len(text):
        line_end = text.find("\n", line_start)
        line_end = len(text) if line_end < 0 else line_end
        start = line_start
        for match in _SENTENCE_END.finditer(text, line_start, line_end):
            end = match.end(1) if match[1] else match.end()
            if not _NO_END.search(text[max(start, end - _NO_END_SEES) : end]):
                yield from cut_text(text, start, end, longest)
                start = match.end()
        rest = text[start:line_end]
        if rest.strip():
            first = start + len(rest) - len(rest.lstrip())
            yield from cut_text(text, first, start + len(rest.rstrip()), longest)
        line_start = line_end + 1


def split_sentences(text: str) -> list[str]:
    """The sentences of a document, in order: its characters but the white space between them. One of more than
    `LONGEST` characters is several."""
    return [text[start:end] for start, end in sentence_spans(text)]
