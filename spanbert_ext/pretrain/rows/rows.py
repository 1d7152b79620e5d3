# SPDX-License-Identifier: Apache-2.0
"""Training rows: an index of token ranges over tokenised documents, each made into a row when it is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset

from spanbert_ext.pretrain.rows import blocks, pairs
from spanbert_ext.pretrain.rows.blocks import BLOCK, sample_id
from spanbert_ext.pretrain.rows.pairs import PAIR
from spanbert_ext.pretrain.rows.token_documents import TokenDocuments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LOOKED_AT = 2**20  # pairs that tell what share of all is not as it should be
_COUNTED = 2**25  # rows whose ranges are ordered at once


class Rows(Dataset):
    """Blocks `[CLS] text [SEP]`, or pairs `[CLS] A [SEP] B [SEP]`, of tokenised documents.

    A row is a mapping: `input_ids` (int32 [L]), `sample_ids` (an integer, the same whatever the corpus' order or
    size); of a pair also `token_type_ids` (int64 [L]: 0 up to the first [SEP], 1 behind it) and, with `next_sentence`,
    `next_sentence_label` (1: B is from elsewhere, 0: B continues A); where the documents have candidates also
    `candidates` (int64 [n, 2]: the token spans [start, end) of the row that are whole in it).

    Args:
        documents: what the rows are made of.
        index: `BLOCK` [N] of `build_blocks`, or `PAIR` [N] of `build_pairs`.
        tokenizer: with cls, sep, pad and mask tokens; nothing of it is kept but their ids.
        next_sentence: pairs have the target of a model that predicts it; another model refuses one.
    """

    def __init__(
        self,
        documents: TokenDocuments,
        index: np.ndarray,
        tokenizer: PreTrainedTokenizerBase,
        next_sentence: bool = True,
    ) -> None:
        if index.dtype not in (BLOCK, PAIR):
            raise TypeError(
                f"index has the dtype {index.dtype}; expected that of build_blocks or build_pairs"
            )
        self.documents = documents
        self.index = index
        self.pairs = index.dtype == PAIR
        self.next_sentence = next_sentence
        self._cls, self._sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        self._never_masked = [self._cls, self._sep, tokenizer.pad_token_id, tokenizer.mask_token_id]

    @property
    def lengths(self) -> np.ndarray:
        """int32 [N]: tokens of each row, special ones included."""
        lengths = self.index["end"] - self.index["start"]
        if self.pairs:
            return lengths + self.index["next_end"] - self.index["next_start"] + pairs.SPECIAL
        return lengths + blocks.SPECIAL

    @property
    def share_not_elsewhere(self) -> float:
        """Of pairs whose B is random, the first million: the share whose B is of the same document, because there are
        too few others."""
        index = self.index[:_LOOKED_AT]
        index = index[index["is_random"] == 1]
        return float((index["other"] == index["document"]).mean()) if len(index) else 0.0

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> dict[str, Any]:
        row = self.index[range(len(self))[number]].item()
        return self._pair(*row) if self.pairs else self._block(*row)

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        return [self[number] for number in numbers]

    def _block(self, document: int, start: int, end: int, number: int) -> dict[str, Any]:
        ids = np.empty(end - start + blocks.SPECIAL, dtype=np.int32)
        ids[0], ids[-1] = self._cls, self._sep
        ids[1:-1] = self.documents.tokens[document][start:end]
        row = {"input_ids": ids, "sample_ids": sample_id(int(self.documents.digests[document]), number)}
        if self.documents.candidates is not None:
            row["candidates"] = self._candidates(document, start, end, 1)
        return row

    def _pair(
        self, document: int, start: int, end: int, other: int, other_start: int, other_end: int,
        is_random: int, number: int, copy: int,
    ) -> dict[str, Any]:  # fmt: skip
        first = end - start + 2  # tokens up to the first [SEP], which belongs to A
        ids = np.empty(first + other_end - other_start + 1, dtype=np.int32)
        ids[0], ids[first - 1], ids[-1] = self._cls, self._sep, self._sep
        ids[1 : first - 1] = self.documents.tokens[document][start:end]
        ids[first:-1] = self.documents.tokens[other][other_start:other_end]
        types = np.zeros(len(ids), dtype=np.int64)
        types[first:] = 1
        row = {
            "input_ids": ids,
            "token_type_ids": types,
            "sample_ids": sample_id(int(self.documents.digests[document]), number, copy),
        }
        if self.next_sentence:
            row["next_sentence_label"] = is_random
        if self.documents.candidates is not None:
            both = (
                self._candidates(document, start, end, 1),
                self._candidates(other, other_start, other_end, first),
            )
            row["candidates"] = np.concatenate(both)
        return row

    def _candidates(self, document: int, start: int, end: int, place: int) -> np.ndarray:
        """The candidates inside tokens [start, end) of a document, whose first is at `place` of the row: [n, 2]."""
        spans = self.documents.candidates[document].reshape(-1, 2)
        first, last = np.searchsorted(spans[:, 0], start), np.searchsorted(spans[:, 1], end, side="right")
        return spans[first : max(first, last)].astype(np.int64) + (place - start)

    def unigram_counts(self, vocab_size: int) -> np.ndarray:
        """int64 [vocab_size]: how often each id stands in the rows, but 0 for the special ones, which are never
        masked. Raises ValueError for an id beyond."""
        counts = np.zeros(vocab_size, dtype=np.int64)
        for first in range(0, len(self), _COUNTED):
            index = self.index[first : first + _COUNTED]
            self._count(index["document"], index["start"], index["end"], counts)
            if self.pairs:
                self._count(index["other"], index["next_start"], index["next_end"], counts)
        counts[self._never_masked] = 0
        return counts

    def _count(self, document: np.ndarray, start: np.ndarray, end: np.ndarray, counts: np.ndarray) -> None:
        """Adds the ids in the ranges [start, end) of the documents to `counts`."""
        order = np.argsort(document, kind="stable")
        document, start, end = document[order], start[order], end[order]
        for first, offsets, values in self.documents.tokens.chunks():
            part = slice(*np.searchsorted(document, (first, first + len(offsets) - 1)))
            if part.start == part.stop:
                continue
            base = offsets[document[part] - first] - offsets[0]
            stretch = values[offsets[0] : offsets[-1]]
            # how many ranges hold each token: what begins up to it, but for what has ended
            begins, ends = (np.bincount(base + x[part], minlength=len(stretch) + 1) for x in (start, end))
            held = np.cumsum(begins - ends)[:-1]
            found = np.bincount(stretch, weights=held, minlength=len(counts))
            if len(found) > len(counts):
                raise ValueError(
                    f"the documents hold the token id {len(found) - 1}, the vocabulary has {len(counts)} ids"
                )
            counts += found.astype(np.int64)
