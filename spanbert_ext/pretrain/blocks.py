"""Documents in, training blocks out: sentences, tokens, and blocks of whole sentences inside one document."""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from datasets import Dataset, Features, Sequence, Value

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A sentence ends at a line's end, or after . ! ? … (and closing quotes or brackets) before white space and
# something that may start one; after a CJK full stop always. Not after an initial or one of these
# abbreviations.
_ABBREVIATIONS = (
    "Mr Mrs Ms Dr Prof St Jr Sr vs No Fig Eq Sec Vol pp cf al e.g i.e etc Inc Ltd Co Gen Col Capt Lt Sgt Rev "
    "Gov Sen Rep U.S"
)
_OPEN, _CLOSE = "\"'\u201c\u2018(\\[", "\"'\u201d\u2019)\\]\u300d\u300f"  # quotes and brackets
_SENTENCE_END = re.compile(
    rf"[.!?\u2026]+[{_CLOSE}]*(?=\s+[{_OPEN}]*[^\Wa-z_])\s+|[\u3002\uff01\uff1f][{_CLOSE}]*(?=\S)"
)
_NO_END = re.compile(rf"(?:^|[\s{_OPEN}])(?:[^\W\d_]|{'|'.join(map(re.escape, _ABBREVIATIONS.split()))})\.$")


def split_sentences(text: str) -> list[str]:
    """The sentences of a document, in order; joined by white space they are the document again."""
    sentences = []
    for line in text.split("\n"):
        start = 0
        for match in _SENTENCE_END.finditer(line):
            sentence = line[start : match.end()].rstrip()
            if not _NO_END.search(sentence):
                sentences.append(sentence)
                start = match.end()
        if line[start:].strip():
            sentences.append(line[start:].strip())
    return sentences


def pack_sentences(sentences: Iterable[list[int]], capacity: int) -> Iterator[list[int]]:
    """Greedy blocks of whole sentences, each of at most `capacity` tokens; every token comes out once, in
    order.

    A sentence longer than `capacity` starts a block of its own and is cut there (the published code drops
    it)."""
    block: list[int] = []
    for sentence in sentences:
        if len(block) + len(sentence) > capacity:
            if block:
                yield block
            while len(sentence) > capacity:
                yield sentence[:capacity]
                sentence = sentence[capacity:]
            block = []
        block = block + sentence
    if block:
        yield block


def _sample_id(document: int, block: int) -> int:
    """Stable 64-bit name of a document's block: masks follow it, whatever the corpus' order or size."""
    data = document.to_bytes(8, "little", signed=True) + block.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def _blocks_of_batch(
    batch: dict[str, list], tokenizer: PreTrainedTokenizerBase, block_size: int
) -> dict[str, list]:
    sentences = [split_sentences(text) for text in batch["text"]]
    flat = [sentence for document in sentences for sentence in document]
    encoded = iter(tokenizer(flat, add_special_tokens=False, verbose=False)["input_ids"] if flat else [])
    columns: dict[str, list] = {"input_ids": [], "sample_ids": []}
    for digest, document in zip(batch["digest"], sentences, strict=True):
        ids = [next(encoded) for _ in document]
        for number, block in enumerate(pack_sentences(ids, block_size - 2)):
            columns["input_ids"].append([tokenizer.cls_token_id, *block, tokenizer.sep_token_id])
            columns["sample_ids"].append(_sample_id(digest, number))
    return columns


def build_blocks(
    documents: Dataset, tokenizer: PreTrainedTokenizerBase, block_size: int, workers: int = 0
) -> Dataset:
    """Blocks `[CLS] sentences [SEP]` of at most `block_size` tokens, never across documents; memory-mapped,
    cached.

    Columns: `input_ids` (int32 list), `sample_ids` (int64). `tokenizer` must be fast and have cls and sep
    tokens."""
    rules = inspect.getsource(sys.modules[__name__])
    key = (documents._fingerprint, tokenizer.backend_tokenizer.to_str(), str(block_size), rules)
    return documents.map(
        _blocks_of_batch,
        batched=True,
        batch_size=64,
        remove_columns=documents.column_names,
        fn_kwargs={"tokenizer": tokenizer, "block_size": block_size},
        features=Features({"input_ids": Sequence(Value("int32")), "sample_ids": Value("int64")}),
        num_proc=min(workers, len(documents)) if workers > 1 else None,
        # a fast tokenizer's pickle changes when it is used: hash what it does instead
        new_fingerprint=hashlib.blake2b("\0".join(key).encode(), digest_size=16).hexdigest(),
        desc="Blocks of sentences",
    )
