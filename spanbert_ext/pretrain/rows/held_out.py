# SPDX-License-Identifier: Apache-2.0
"""Which text is kept from training, for evaluation: whole documents, or passages where there are too few of these.

The choice depends on the texts alone, not on file order or seed, and equal texts stay together."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from spanbert_ext.pretrain.rows.token_documents import TokenDocuments, rows_in_memory
from spanbert_ext.pretrain.text import sentences
from spanbert_ext.pretrain.text.corpus import digest
from spanbert_ext.pretrain.text.sentences import sentence_spans
from spanbert_ext.pretrain.text.table_cache import derived_table
from spanbert_ext.pretrain.text.text_files import CorpusError

PASSAGE = 2_000  # characters: about one block of the paper's size
PASSAGE_TOKENS = 512
_FEWEST = 20  # passages that a small corpus is divided into
_RUN = 100_000  # characters of a row of training text between passages


@dataclass(frozen=True)
class Split:
    """Training and held-out texts, with the columns of the documents; `unit` is "documents" or "passages", `rule` says
    why."""

    train: Dataset
    held_out: Dataset
    unit: str
    rule: str


def split_documents(documents: Dataset, share: float) -> Split:
    """Holds out the documents with the smallest content hashes, a `share` of their number (at least one).

    Where these are less than a quarter or more than four times that share of the text (a single document, one that
    outweighs the others, one that is nearly empty), passages are held out instead, by their content hashes too, until
    they are that share: runs of whole sentences of about 2,000 characters. What lies between them is one training text.

    documents: as `load_documents` returns them. Raises `CorpusError` when nothing would be left on one side."""
    lengths = _lengths(documents)
    chosen, taken = _by_digest(_digests(documents), lengths, share)
    if _near(taken, share):
        train, held_out = (documents.select(np.flatnonzero(side)) for side in (~chosen, chosen))
        rule = f"{len(held_out):,} of {len(documents):,} documents, by a hash of their text"
        return Split(train, held_out, "documents", rule)
    size = max(1, min(PASSAGE, int(lengths.sum()) // _FEWEST))
    passages = _map(documents, {"size": size, "threshold": None})
    digests, lengths = _digests(passages), _lengths(passages)
    threshold = _threshold(digests, lengths, share, len(documents))
    chosen = digests <= threshold
    held_out = passages.select(np.flatnonzero(chosen))
    train = _map(documents, {"size": size, "threshold": threshold})
    rule = (
        f"{len(held_out):,} of {len(passages):,} passages of about {size:,} characters, by a hash of their text;"
        f" whole documents would be {taken:.1%} of the text instead of {share:.1%}"
    )
    return Split(train, held_out, "passages", rule)


class TokenisedSplit(NamedTuple):
    """Numbers of training and held-out documents in `documents`; `unit` and `rule` as of a `Split`."""

    documents: TokenDocuments
    train: np.ndarray
    held_out: np.ndarray
    unit: str
    rule: str


def split_tokenised(documents: TokenDocuments, share: float) -> TokenisedSplit:
    """As `split_documents`, of tokenised documents. Passages have about `PASSAGE_TOKENS` tokens; the `documents` that
    are returned are they and what lies between them, without a copy of the tokens.

    Raises `CorpusError` when nothing would be left on one side."""
    lengths = documents.tokens.lengths()
    chosen, taken = _by_digest(documents.digests, lengths, share)
    if _near(taken, share):
        rule = f"{chosen.sum():,} of {len(documents):,} documents, by a hash of their text"
        return TokenisedSplit(documents, np.flatnonzero(~chosen), np.flatnonzero(chosen), "documents", rule)
    size = max(1, min(PASSAGE_TOKENS, int(lengths.sum()) // _FEWEST))
    passages = list(_token_passages(documents, size))
    digests = np.array([passage.digest for passage in passages], dtype=np.int64)
    threshold = _threshold(digests, np.array([x.stop - x.start for x in passages]), share, len(documents))
    pieces: list[_Passage] = []
    for passage in passages:
        before = pieces[-1] if pieces else None
        joined = before is not None and before.document == passage.document
        if joined and min(before.digest, passage.digest) > threshold:
            pieces[-1] = before._replace(
                sentences=before.sentences + passage.sentences, stop=passage.stop, digest=passage.digest
            )
        else:
            pieces.append(passage)
    held_out = np.array([piece.digest <= threshold for piece in pieces])
    # a training text gets the name of its own tokens: until here it has that of its last passage
    names = [
        piece.digest if out else _digest_of_tokens(documents.tokens[piece.document][piece.start : piece.stop])
        for piece, out in zip(pieces, held_out, strict=True)
    ]
    divided = documents.divided(
        np.array([piece.sentences for piece in pieces], dtype=np.int64), np.array(names, dtype=np.int64)
    )
    rule = (
        f"{held_out.sum():,} of {len(passages):,} passages of about {size:,} tokens, by a hash of their tokens;"
        f" whole documents would be {taken:.1%} of the text instead of {share:.1%}"
    )
    return TokenisedSplit(divided, np.flatnonzero(~held_out), np.flatnonzero(held_out), "passages", rule)


class _Passage(NamedTuple):
    """Tokens [start, stop) of a document: so many of its sentences."""

    document: int
    sentences: int
    start: int
    stop: int
    digest: int


def _token_passages(documents: TokenDocuments, size: int) -> Iterator[_Passage]:
    """The passages of all documents, which they make up, in order."""
    for number in range(len(documents)):
        tokens = documents.tokens[number]
        ends = np.cumsum(documents.sentence_lengths[number], dtype=np.int64)
        done = 0  # sentences
        for start, stop in _gathered(itertools.pairwise([0, *ends.tolist()]), size, len(tokens)):
            last = int(np.searchsorted(ends, stop)) + 1
            yield _Passage(number, last - done, start, stop, _digest_of_tokens(tokens[start:stop]))
            done = last


def _digest_of_tokens(tokens: np.ndarray) -> int:
    """64-bit content hash as a signed integer: the same on every machine."""
    data = np.ascontiguousarray(tokens, dtype="<i4").tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def _by_digest(digests: np.ndarray, lengths: np.ndarray, share: float) -> tuple[np.ndarray, float]:
    """Which documents have the smallest digests, a `share` of their number, and what part of the text they are."""
    chosen = digests <= np.sort(digests)[math.ceil(share * len(digests)) - 1]
    return chosen, float(lengths[chosen].sum() / lengths.sum())


def _near(taken: float, share: float) -> bool:
    return share / 4 <= taken <= min(4 * share, (1 + share) / 2)


def _threshold(digests: np.ndarray, lengths: np.ndarray, share: float, documents: int) -> int:
    """The digest up to which passages are held out, so that they are a `share` of the text. Raises `CorpusError`."""
    order = np.argsort(digests)
    enough = np.searchsorted(np.cumsum(lengths[order]), share * lengths.sum())
    threshold = int(digests[order[enough]])
    if (
        lengths[digests <= threshold].sum() > (1 + share) / 2 * lengths.sum()
    ):  # equal ones are held out together
        raise CorpusError(
            f"the corpus has {documents} document(s) and {len(digests)} passage(s),"
            f" {len(np.unique(digests))} of them different: holding out a share of {share} leaves too little for"
            " training. Give more text; a blank line ends a document."
        )
    return threshold


def _digests(texts: Dataset) -> np.ndarray:
    return np.asarray(texts.data.column("digest"))


def _lengths(texts: Dataset) -> np.ndarray:
    return np.asarray(pc.utf8_length(texts.data.column("text")), dtype=np.int64)


def _map(documents: Dataset, options: dict[str, int | None]) -> Dataset:
    rules = "".join(map(inspect.getsource, (sys.modules[__name__], sentences)))
    key = "\0".join((documents._fingerprint, repr(options), rules))
    return derived_table(
        lambda: documents.map(
            _divide,
            batched=True,
            batch_size=rows_in_memory(documents),
            fn_kwargs=options,
            features=documents.features,
            new_fingerprint=hashlib.blake2b(key.encode(), digest_size=16).hexdigest(),
            desc="Passages",
        ),
        documents,
    )


def _divide(batch: dict[str, list], size: int, threshold: int | None) -> dict[str, list]:
    """The passages of each document; with a threshold instead the text between those whose digests are up to it."""
    columns: dict[str, list] = {"text": [], "source": [], "digest": []}
    for text, source in zip(batch["text"], batch["source"], strict=True):
        stretches = passage_spans(text, size)
        if threshold is not None:
            stretches = _runs(text, stretches, threshold)
        for start, end in stretches:
            columns["text"].append(text[start:end])
            columns["source"].append(source)
            columns["digest"].append(digest(text[start:end]))
    return columns


def passage_spans(text: str, size: int) -> Iterator[tuple[int, int]]:
    """`(start, end)` of runs of whole sentences, of `size` characters and what the last sentence is beyond; the last
    run is half as long at least, or all there is."""
    return _gathered(sentence_spans(text, longest=PASSAGE), size, len(text))


def _gathered(sentence_ranges: Iterable[tuple[int, int]], size: int, total: int) -> Iterator[tuple[int, int]]:
    """`passage_spans` of a document of `total` characters or tokens, from its sentences' ranges."""
    begun: tuple[int, int] | None = None
    for start, end in sentence_ranges:
        if begun is None:
            begun = start, end
        elif begun[1] - begun[0] >= size and total - start >= size / 2:
            yield begun
            begun = start, end
        else:
            begun = begun[0], end
    if begun is not None:
        yield begun


def _runs(text: str, passages: Iterator[tuple[int, int]], threshold: int) -> Iterator[tuple[int, int]]:
    first = last = None
    for start, end in passages:
        held_out = digest(text[start:end]) <= threshold
        if first is not None and (held_out or end - first > _RUN):
            yield first, last
            first = None
        if not held_out:
            first, last = (start if first is None else first), end
    if first is not None:
        yield first, last
