"""Documents in, training blocks out: sentences, tokens, and blocks of whole sentences inside one document."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, Sequence, Value

from spanbert_ext.pretrain import sentences
from spanbert_ext.pretrain.sentences import split_sentences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOGETHER = 1_000_000  # characters that are tokenized in one call


def rows_in_memory(documents: Dataset, most: int = 64) -> int:
    """How many documents to read at once: fewer than `most` where some are so long that these might fill the
    memory."""
    longest = pc.max(pc.binary_length(documents.data.column("text"))).as_py() or 1
    return max(1, min(most, 2**26 // longest))


def pack_sentences(sentences: Iterable[list[int]], capacity: int) -> Iterator[list[int]]:
    """Greedy blocks of whole sentences, each of at most `capacity` tokens; every token comes out once, in
    order.

    A sentence longer than `capacity` starts a block of its own and is cut there (the published code drops
    it)."""
    block: list[int] = []
    for sentence in sentences:
        start = 0
        if len(block) + len(sentence) > capacity:
            if block:
                yield block
            block = []
            while len(sentence) - start > capacity:
                yield sentence[start : start + capacity]
                start += capacity
        block.extend(sentence[start:])
    if block:
        yield block


def _sample_id(document: int, block: int) -> int:
    """Stable 64-bit name of a document's block: masks follow it, whatever the corpus' order or size."""
    data = document.to_bytes(8, "little", signed=True) + block.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """The token ids of each text, without special tokens."""
    start = size = 0
    for stop, text in enumerate(texts, 1):
        size += len(text)
        if size >= _TOGETHER or stop == len(texts):
            yield from tokenizer(texts[start:stop], add_special_tokens=False, verbose=False)["input_ids"]
            start, size = stop, 0


def _blocks_of_batch(
    batch: dict[str, list], tokenizer: PreTrainedTokenizerBase, block_size: int
) -> dict[str, list]:
    documents = [split_sentences(text) for text in batch["text"]]
    encoded = _encode([sentence for document in documents for sentence in document], tokenizer)
    columns: dict[str, list] = {"input_ids": [], "sample_ids": []}
    for digest, document in zip(batch["digest"], documents, strict=True):
        ids = itertools.islice(encoded, len(document))
        for number, block in enumerate(pack_sentences(ids, block_size - 2)):
            row = [tokenizer.cls_token_id, *block, tokenizer.sep_token_id]
            columns["input_ids"].append(np.array(row, dtype=np.int32))  # an eighth of the list's memory
            columns["sample_ids"].append(_sample_id(digest, number))
    return columns


def build_blocks(
    documents: Dataset, tokenizer: PreTrainedTokenizerBase, block_size: int, workers: int = 0
) -> Dataset:
    """Blocks `[CLS] sentences [SEP]` of at most `block_size` tokens, never across documents; memory-mapped,
    cached.

    Columns: `input_ids` (int32 list), `sample_ids` (int64). `tokenizer` must be fast and have cls and sep
    tokens."""
    rules = "".join(map(inspect.getsource, (sys.modules[__name__], sentences)))
    key = (documents._fingerprint, tokenizer.backend_tokenizer.to_str(), str(block_size), rules)
    return documents.map(
        _blocks_of_batch,
        batched=True,
        batch_size=rows_in_memory(documents),
        remove_columns=documents.column_names,
        fn_kwargs={"tokenizer": tokenizer, "block_size": block_size},
        features=Features({"input_ids": Sequence(Value("int32")), "sample_ids": Value("int64")}),
        num_proc=min(workers, len(documents)) if workers > 1 else None,
        # a fast tokenizer's pickle changes when it is used: hash what it does instead
        new_fingerprint=hashlib.blake2b("\0".join(key).encode(), digest_size=16).hexdigest(),
        desc="Blocks of sentences",
    )
