"""What every example begins with: text, a tokenizer and a model; small ones made here unless others are named."""

import argparse
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, BertConfig, PreTrainedTokenizerBase

from spanbert_ext import SpanBertForPreTraining
from spanbert_ext.pretrain.rows.tokenizer import train_tokenizer
from spanbert_ext.pretrain.text.builtin_corpus import builtin_documents


def parse(description: str | None, **defaults: int | float | str) -> argparse.Namespace:
    """The command line: text, model, steps, and `defaults` as options of their own."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    documents = (path.read_text(encoding="utf-8") for path in options.text or [])
    if not options.text:
        documents = (text for _, text in islice(builtin_documents(), 20))
    lines = (line for document in documents for line in document.splitlines())
    texts = [line for line in lines if line.strip()]
    if options.model:
        model = SpanBertForPreTraining.from_pretrained(options.model)
        return AutoTokenizer.from_pretrained(options.model), model, texts
    tokenizer = train_tokenizer(lambda: texts, 1000)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes)
    return tokenizer, SpanBertForPreTraining(config), texts


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
