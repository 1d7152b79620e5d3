"""What a run reads: the corpus as training and held-out rows, and the tokenizer that made them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from spanbert_ext.pretrain.blocks import build_blocks, rows_in_memory
from spanbert_ext.pretrain.checkpoints import TOKENIZER
from spanbert_ext.pretrain.corpus import load_documents
from spanbert_ext.pretrain.held_out import split_documents
from spanbert_ext.pretrain.options import Options
from spanbert_ext.pretrain.sizes import MODELS
from spanbert_ext.pretrain.text_files import CorpusError
from spanbert_ext.pretrain.tokenizer import load_tokenizer, train_tokenizer


def load_data(
    options: Options, folder: Path
) -> tuple[PreTrainedTokenizerBase, Dataset, Dataset, dict[str, Any]]:
    """Tokenizer, training blocks, held-out blocks, and facts about the corpus for the report."""
    documents = load_documents(options.corpus, options.cache_dir)
    split = split_documents(documents, options.held_out)
    print(f"Held out: {split.rule}.", flush=True)
    name = options.tokenizer or (None if options.model in MODELS else options.model)
    if name is None and options.resume:
        name = str(folder / TOKENIZER)
    if name is not None:
        tokenizer = load_tokenizer(name)
    else:
        tokenizer = train_tokenizer(
            lambda: (
                text for batch in split.train.iter(rows_in_memory(split.train)) for text in batch["text"]
            ),
            options.vocab_size,
        )
    train = build_blocks(split.train, tokenizer, options.block_size, options.workers)
    held_out = build_blocks(split.held_out, tokenizer, options.block_size, options.workers)
    for part, blocks in (("training", train), ("held-out", held_out)):
        if not len(blocks):
            raise CorpusError(f"the tokenizer finds no token in the {part} documents")
    digest = hashlib.blake2b(
        np.asarray(documents.data.column("digest")).tobytes(), digest_size=8
    )  # order counts
    facts = {
        "corpus": options.corpus or ["the interpreter's documentation (built-in)"],
        "corpus_digest": digest.hexdigest(),
        "documents": len(documents),
        "held_out_unit": split.unit,
        f"held_out_{split.unit}": len(split.held_out),
        "train_blocks": len(train),
        "held_out_blocks": len(held_out),
    }
    return tokenizer, train, held_out, facts
