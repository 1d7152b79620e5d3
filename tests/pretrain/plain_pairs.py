# SPDX-License-Identifier: Apache-2.0
"""The published pair algorithms, written from their description with lists of tokens and a generator's floats.

google-research/bert, create_pretraining_data.py; facebookresearch/SpanBERT, span_bert_dataset.py (by documents).
"""

from __future__ import annotations

import random


def plain_pairs(
    documents: list[list[list]], index: int, row_size: int, rule: str, short: float, draw: random.Random
) -> list[tuple[list, list, bool]]:
    """(A, B, whether B is random) of one document, a list of sentences, each a list of tokens."""
    document, most = documents[index], row_size - 3
    target = most
    if draw.random() < short:
        target = draw.randint(2, most if rule == "google" else most - 1)
    made, chunk, i = [], [], 0
    while i < len(document):
        chunk.append(document[i])
        if i == len(document) - 1 or sum(map(len, chunk)) >= target:
            n = len(chunk)
            if rule == "google":
                a_end = draw.randint(1, n - 1) if n >= 2 else 1
            else:
                a_end = draw.randint(1, n - 2) if n > 2 else 1
            a = [token for sentence in chunk[:a_end] for token in sentence]
            is_random = n == 1 or draw.random() < 0.5
            if is_random:
                for _ in range(10):
                    other = draw.randint(0, len(documents) - (1 if rule == "google" else 2))
                    if other != index:
                        break
                b: list = []
                for sentence in documents[other][draw.randint(0, len(documents[other]) - 1) :]:
                    b += sentence
                    if len(b) >= target - len(a):
                        break
                i -= n - a_end
            else:
                b = [token for sentence in chunk[a_end:] for token in sentence]
            while len(a) + len(b) > most:
                longer = a if len(a) > len(b) else b
                del longer[0 if draw.random() < 0.5 else -1]
            made.append((a, b, is_random))
            chunk = []
        i += 1
    return made
