# SPDX-License-Identifier: Apache-2.0
"""Blocks: runs of whole sentences inside one document, each a range of its tokens."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from spanbert_ext.pretrain.rows.token_documents import TokenDocuments

# A block: tokens [start, end) of a document, the `number`-th block of it.
BLOCK = np.dtype([("document", "i4"), ("start", "i4"), ("end", "i4"), ("number", "i4")])
SPECIAL = 2  # [CLS] and [SEP]


def pack_sentences(lengths: Iterable[int], capacity: int) -> Iterator[tuple[int, int]]:
    """Token ranges `(start, end)` of greedy blocks of whole sentences, each of at most `capacity` tokens; together
    they are the document.

    A sentence longer than `capacity` starts a block of its own and is cut there (the published code drops
    it)."""
    start = end = 0
    for length in lengths:
        stop = end + length
        if stop - start > capacity:
            if end > start:
                yield start, end
                start = end
            while stop - start > capacity:
                yield start, start + capacity
                start += capacity
        end = stop
    if end > start:
        yield start, end


def build_blocks(documents: TokenDocuments, numbers: np.ndarray, block_size: int) -> np.ndarray:
    """The blocks of the documents `numbers` [n], of at most `block_size` tokens with the special ones: `BLOCK` [N]."""
    fields = array("i")
    for document in numbers.tolist():
        lengths = documents.sentence_lengths[document].tolist()
        for number, block in enumerate(pack_sentences(lengths, block_size - SPECIAL)):
            fields.extend((document, *block, number))
    return np.array(fields, dtype=np.int32).view(BLOCK)


def sample_id(digest: int, *numbers: int) -> int:
    """Stable 64-bit name of a row of a document: masks follow it, whatever the corpus' order or size."""
    data = digest.to_bytes(8, "little", signed=True) + b"".join(n.to_bytes(8, "little") for n in numbers)
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)
