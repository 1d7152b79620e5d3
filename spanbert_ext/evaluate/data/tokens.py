# SPDX-License-Identifier: Apache-2.0
"""Texts made of tokens, as treebanks write them."""

from __future__ import annotations

from collections.abc import Sequence

_AS_TEXT = {
    "-LRB-": "(",
    "-RRB-": ")",
    "-LSB-": "[",
    "-RSB-": "]",
    "-LCB-": "{",
    "-RCB-": "}",
    "``": '"',
    "''": '"',
}


def join_tokens(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """The tokens joined by blanks, and each one's characters (end excluded). The Penn Treebank's names of brackets and
    its quotation marks become those that texts have, which is what an encoder was trained on."""
    spans, length = [], 0
    plain = [_AS_TEXT.get(token.upper(), token) for token in tokens]
    for token in plain:
        spans.append((length, length + len(token)))
        length += len(token) + 1
    return " ".join(plain), spans
