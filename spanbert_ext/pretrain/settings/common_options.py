# SPDX-License-Identifier: Apache-2.0
"""Options that `spanbert-pretrain` and `spanbert-prepare` have in common, and what both say of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Add = Callable[..., Any]  # a parser's or a group's add_argument


def add_corpus_options(add: Add, *, also: str = "", **corpus: Any) -> None:
    """--corpus, --document-separator, --text-field. also: what --corpus may be besides; corpus: more about it."""
    add(
        "--corpus",
        nargs="+",
        metavar="NAME",
        help="files, folders and quoted globs of text (.txt, .text; UTF-8, or UTF-16 or UTF-32 with a byte order mark;"
        " a blank line ends a document), JSON lines (.jsonl, .ndjson), both also packed (.gz, .xz, .bz2, .zst), or"
        " Parquet (.parquet); endings may be in capitals. Other files of a folder are passed over, which is said; .md"
        " and .rst are read as text where a name or a pattern ends so: 'notes/**/*.md'. Or"
        f" dataset:PATH[@CONFIGURATION][:SPLIT], a folder or a name on the Hugging Face hub{also}",
        **corpus,
    )
    add(
        "--document-separator",
        metavar="LINE",
        help="a line that ends a document of a text file, in the place of a blank one; for text with blank lines"
        " between paragraphs",
    )
    add(
        "--text-field",
        metavar="NAME",
        help="of JSON lines, Parquet and datasets: where the text is (default: text)",
    )


def add_vocabulary_options(add: Add, *, tokenizer: str, vocab_size: str = "", unused_ids: str) -> None:
    """--tokenizer, --vocab-size, --unused-ids; the arguments are what is said of the defaults."""
    add(
        "--tokenizer",
        metavar="NAME",
        help=f"folder or hub name of a fast tokenizer (default: {tokenizer})",
    )
    add("--vocab-size", type=int, metavar="N", help=f"size of a vocabulary that is trained{vocab_size}")
    add(
        "--unused-ids",
        type=int,
        metavar="N",
        help="tokens [unused0], ... of a vocabulary that is trained, reserved for later use"
        f" (default: {unused_ids})",
    )


def add_output_options(add: Add, *, output: str, overwrite: str) -> None:
    """--output, --overwrite, --no-progress. output: what the folder is of; overwrite: what is deleted, when."""
    add("--output", metavar="DIR", help=f"folder of {output}")
    add("--overwrite", action="store_true", help=f"delete the {overwrite}")
    add(
        "--no-progress",
        dest="progress",
        action="store_false",
        help="no progress bars; where standard error is no terminal there are none anyway",
    )
