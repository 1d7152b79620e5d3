# SPDX-License-Identifier: Apache-2.0
"""Texts in, tokenised documents out: the one table that every kind of row is made of, and access to its memory."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features, Sequence, Value
from datasets.fingerprint import Hasher

from spanbert_ext.pretrain.text import sentences
from spanbert_ext.pretrain.text.sentences import split_sentences
from spanbert_ext.pretrain.text.table_cache import derived_table

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Finds phrases in one sentence: half-open character spans in ascending order.
PhraseFinder = Callable[[str], list[tuple[int, int]]]

COLUMNS = {
    "tokens": Sequence(Value("int32")),  # of all sentences, without special tokens
    "sentence_lengths": Sequence(Value("int32")),  # none is 0; they sum to the number of tokens
    "digest": Value("int64"),  # of the document's text
}
# With a phrase finder: flat half-open token spans of the document, [start, end, start, end, ...], ascending.
CANDIDATES = {"candidates": Sequence(Value("int32"))}

_TOGETHER = 1_000_000  # characters that are tokenized in one call


def rows_in_memory(documents: Dataset, most: int = 64) -> int:
    """How many documents to read at once: fewer than `most` where some are so long that these might fill the
    memory."""
    longest = pc.max(pc.binary_length(documents.data.column("text"))).as_py() or 1
    return max(1, min(most, 2**26 // longest))


def encode(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, offsets: bool = False
) -> Iterator[tuple[list[int], list[tuple[int, int]] | None]]:
    """The token ids of each text, without special tokens, and with `offsets` each token's character span."""
    start = size = 0
    for stop, text in enumerate(texts, 1):
        size += len(text)
        if size >= _TOGETHER or stop == len(texts):
            encoded = tokenizer(
                texts[start:stop], add_special_tokens=False, verbose=False, return_offsets_mapping=offsets
            )
            spans = encoded["offset_mapping"] if offsets else itertools.repeat(None)
            yield from zip(encoded["input_ids"], spans, strict=False)
            start, size = stop, 0


def token_spans(phrases: list[tuple[int, int]], offsets: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The half-open token span of every phrase: the tokens that share a character with it, each in one span.

    phrases: character spans, ascending. offsets: the tokens' character spans."""
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
    free = 0
    for start, end in phrases:
        first, last = max(free, bisect_right(ends, start)), bisect_left(starts, end)
        if first < last:
            yield first, last
            free = last


def tokenize_batch(
    batch: dict[str, list], tokenizer: PreTrainedTokenizerBase, phrase_finder: PhraseFinder | None = None
) -> dict[str, list]:
    """The columns `COLUMNS` (with a finder `CANDIDATES` too) of a batch of documents with `text` and `digest`.

    A sentence without a token is left out, and so is a document without one."""
    documents = [split_sentences(text) for text in batch["text"]]
    texts = [sentence for document in documents for sentence in document]
    encoded = encode(texts, tokenizer, offsets=phrase_finder is not None)
    columns: dict[str, list] = {name: [] for name in COLUMNS | (CANDIDATES if phrase_finder else {})}
    for digest, document in zip(batch["digest"], documents, strict=True):
        tokens, lengths, candidates = array("i"), array("i"), array("i")
        for sentence in document:
            ids, offsets = next(encoded)
            if phrase_finder is not None:
                for span in token_spans(phrase_finder(sentence), offsets):
                    candidates.extend(len(tokens) + token for token in span)
            if ids:
                tokens.extend(ids)
                lengths.append(len(ids))
        if not tokens:
            continue
        columns["tokens"].append(np.frombuffer(tokens, dtype=np.int32))
        columns["sentence_lengths"].append(np.frombuffer(lengths, dtype=np.int32))
        columns["digest"].append(digest)
        if phrase_finder is not None:
            columns["candidates"].append(np.array(candidates, dtype=np.int32))
    return columns


def tokenize_documents(
    documents: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    workers: int = 0,
    phrase_finder: PhraseFinder | None = None,
) -> Dataset:
    """The tokenised documents of a table of texts, in their order; memory-mapped, cached.

    documents: columns `text` and `digest`. tokenizer: a fast one. workers: processes; the result is the same.
    phrase_finder: finds phrases that may be masked as a whole. Columns: `COLUMNS`, with a finder `CANDIDATES`. Raises
    `CorpusError` for a cached table that is damaged."""
    rules = "".join(map(inspect.getsource, (sys.modules[__name__], sentences)))
    key = [documents._fingerprint, tokenizer.backend_tokenizer.to_str(), rules, _rules_of(phrase_finder)]
    return derived_table(
        lambda: documents.map(
            tokenize_batch,
            batched=True,
            batch_size=rows_in_memory(documents),
            writer_batch_size=rows_in_memory(documents, 1000),
            remove_columns=documents.column_names,
            fn_kwargs={"tokenizer": tokenizer, "phrase_finder": phrase_finder},
            features=Features(COLUMNS | (CANDIDATES if phrase_finder else {})),
            num_proc=min(workers, len(documents)) if workers > 1 else None,
            # a fast tokenizer's pickle changes when it is used: hash what it does instead
            new_fingerprint=hashlib.blake2b("\0".join(key).encode(), digest_size=16).hexdigest(),
            desc="Tokens",
        ),
        documents,
    )


def _rules_of(phrase_finder: PhraseFinder | None) -> str:
    """What a phrase finder does: what it holds, and the text of the module that it comes from."""
    if phrase_finder is None:
        return ""
    name = getattr(phrase_finder, "__module__", None) or type(phrase_finder).__module__
    return Hasher.hash(phrase_finder) + inspect.getsource(sys.modules[name])


class _Lists:
    """The elements of a column of lists, as views of its memory."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._chunks = [chunk for chunk in column.chunks if len(chunk)]
        self._firsts = [0, *itertools.accumulate(map(len, self._chunks))]
        self._views: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def _view(self, chunk: int) -> tuple[np.ndarray, np.ndarray]:
        if chunk not in self._views:
            lists = self._chunks[chunk]
            self._views[chunk] = np.asarray(lists.offsets), lists.values.to_numpy(zero_copy_only=True)
        return self._views[chunk]

    def __getitem__(self, index: int) -> np.ndarray:
        chunk = bisect_right(self._firsts, index) - 1
        offsets, values = self._view(chunk)
        place = index - self._firsts[chunk]
        return values[offsets[place] : offsets[place + 1]]

    def chunks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(number of the first list, offsets [n + 1] into the values, values) of each stretch of memory."""
        for number, first in enumerate(self._firsts[:-1]):
            yield first, *self._view(number)

    def lengths(self) -> np.ndarray:
        """int64 [N]."""
        parts = [np.diff(offsets) for _, offsets, _ in self.chunks()]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)

    def divided(self, sizes: np.ndarray) -> _Lists:
        """The same elements as other lists, of `sizes` [M] in order; each is a part of one list here."""
        made = _Lists(pa.chunked_array([], type=pa.null()))
        ends = np.concatenate([[0], np.cumsum(sizes)])
        first = done = 0  # lists, elements
        for number, (_, offsets, values) in enumerate(self.chunks()):
            size = int(offsets[-1] - offsets[0])
            is_last = number == len(self._firsts) - 2
            # empty lists where a chunk ends are of the next one
            last = len(sizes) if is_last else int(np.searchsorted(ends, done + size))
            made._views[number] = ends[first : last + 1] - done + offsets[0], values
            made._firsts.append(last)
            first, done = last, done + size
        return made


class _Shifted:
    """Lists of positions in documents, as positions in the parts that begin at `starts` [M]."""

    def __init__(self, lists: _Lists, starts: np.ndarray) -> None:
        self._lists, self._starts = lists, starts

    def __getitem__(self, index: int) -> np.ndarray:
        return self._lists[index] - np.int32(self._starts[index])


class TokenDocuments:
    """A table of tokenised documents, read in place: an element is a view of the mapped file.

    dataset: columns as `tokenize_documents` makes them, of which `candidates` may be absent. parts: of `divided`.
    Raises ValueError for another table."""

    def __init__(self, dataset: Dataset, parts: tuple[np.ndarray, np.ndarray] | None = None) -> None:
        missing = sorted(COLUMNS.keys() - set(dataset.column_names))
        if missing:
            raise ValueError(
                f"a table of tokenised documents has the columns {', '.join(COLUMNS)}; this one has no"
                f" {', '.join(missing)}, but {', '.join(dataset.column_names)}"
            )
        self.dataset = dataset.flatten_indices() if dataset._indices is not None else dataset
        column = self.dataset.data.column
        self.digests = np.asarray(column("digest"), dtype=np.int64)  # [D]
        self.tokens = _Lists(column("tokens"))  # [document] -> int32 [tokens]
        self.sentence_lengths = _Lists(column("sentence_lengths"))  # [document] -> int32 [sentences]
        has_candidates = "candidates" in dataset.column_names
        self.candidates: _Lists | _Shifted | None = (
            _Lists(column("candidates")) if has_candidates else None
        )  # [document] -> int32 [2 n]
        self._parts = parts
        if parts is not None:
            self._divide(*parts)

    def __len__(self) -> int:
        return len(self.digests)

    @property
    def fingerprint(self) -> str:
        """The same for the same documents, whatever process reads them."""
        if self._parts is None:
            return self.dataset._fingerprint
        data = self.dataset._fingerprint.encode() + b"".join(part.tobytes() for part in self._parts)
        return hashlib.blake2b(data, digest_size=16).hexdigest()

    def divided(self, sentences: np.ndarray, digests: np.ndarray) -> TokenDocuments:
        """Parts of these documents, each a document of its own and with no copy of its tokens.

        sentences: int64 [M], how many each part has, in order; no part is of two documents. digests: int64 [M]."""
        return TokenDocuments(self.dataset, (sentences, digests))

    def _divide(self, sentences: np.ndarray, digests: np.ndarray) -> None:
        whole = self.tokens.lengths()
        all_lengths = [
            values[offsets[0] : offsets[-1]] for _, offsets, values in self.sentence_lengths.chunks()
        ]
        ends = np.concatenate([[0], np.cumsum(np.concatenate(all_lengths), dtype=np.int64)])
        cuts = ends[np.concatenate([[0], np.cumsum(sentences)])]  # [M + 1] tokens of the table
        firsts = np.concatenate([[0], np.cumsum(whole)])  # [D + 1]
        document = np.searchsorted(firsts, cuts[:-1], side="right") - 1  # [M]
        if self.candidates is not None:
            starts = cuts[:-1] - firsts[document]
            self.candidates = _Shifted(
                self.candidates.divided(_candidates_of_parts(self.candidates, document, starts)), starts
            )
        self.tokens = self.tokens.divided(np.diff(cuts))
        self.sentence_lengths = self.sentence_lengths.divided(sentences)
        self.digests = digests

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "parts": self._parts}  # the views are of this process's memory

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["dataset"], state["parts"])


def _candidates_of_parts(candidates: _Lists, document: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """How many entries of each document's candidates belong to each of its parts, which begin at tokens `starts` [M] of
    the documents `document` [M], in order: a phrase is in one sentence, so in one part."""
    sizes = np.zeros(len(document), dtype=np.int64)
    bounds = np.flatnonzero(np.diff(document, prepend=-1, append=-1))
    for first, last in itertools.pairwise(bounds.tolist()):
        spans = candidates[int(document[first])].reshape(-1, 2)
        places = np.append(np.searchsorted(spans[:, 0], starts[first:last]), len(spans))
        sizes[first:last] = 2 * np.diff(places)
    return sizes
