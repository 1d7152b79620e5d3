# SPDX-License-Identifier: Apache-2.0
"""What every example begins with: text, a tokenizer and a model; small ones made here unless others are named."""

import argparse
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from tokenizers import BertWordPieceTokenizer
from transformers import AutoTokenizer, BertConfig, BertTokenizer, PreTrainedTokenizerBase

from spanbert_ext import SpanBertForPreTraining


def parse(description: str | None, **defaults: int | float | str) -> argparse.Namespace:
    """The command line: text, model, steps, and `defaults` as options of their own."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=form)
    parser.add_argument(
        "--text", nargs="+", type=Path, help="files, a paragraph a line (default: Python's manual)"
    )
    parser.add_argument("--model", help="folder or hub name of an encoder (default: a new BERT of 2 layers)")
    for name, value in {"steps": 20, "batch_size": 8, "learning_rate": 3e-3, **defaults}.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(value), default=value, help=f"(default: {value})")
    return parser.parse_args()


def begin(options: argparse.Namespace) -> tuple[PreTrainedTokenizerBase, SpanBertForPreTraining, list[str]]:
    """The tokenizer, the model and the paragraphs that they are trained on."""
    text = "\n\n".join(topics[name] for name in sorted(topics)[:20])  # what Python's help() prints
    texts = [" ".join(paragraph.split()) for paragraph in text.split("\n\n") if paragraph.strip()]
    if options.text:
        lines = (line for path in options.text for line in path.read_text(encoding="utf-8").splitlines())
        texts = [line for line in lines if line.strip()]
    if options.model:
        model = SpanBertForPreTraining.from_pretrained(options.model)
        return AutoTokenizer.from_pretrained(options.model), model, texts
    pieces = BertWordPieceTokenizer(lowercase=False)
    pieces.train_from_iterator(texts, vocab_size=1000, show_progress=False)
    tokenizer = BertTokenizer(vocab=pieces.get_vocab(), do_lower_case=False)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    return tokenizer, SpanBertForPreTraining(BertConfig(vocab_size=len(tokenizer), **sizes)), texts


def rows_of(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[dict[str, list[int]]]:
    """A row of at most 64 tokens for each paragraph."""
    encoded = tokenizer(texts, truncation=True, max_length=64)
    return [dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)]


def endless(loader: Any, collator: Any) -> Iterator[Any]:
    """Epoch after epoch, each with an order and masks of its own."""
    for epoch in count():
        collator.set_epoch(epoch)
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        yield from loader
