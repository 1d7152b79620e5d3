# SPDX-License-Identifier: Apache-2.0
"""What a run reads: the corpus as training and held-out rows, and the tokenizer that made them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from spanbert_ext.files.commands import place
from spanbert_ext.files.paths import given_path
from spanbert_ext.pretrain.prepare.prepared import check_tokenizer, load_prepared
from spanbert_ext.pretrain.rows.blocks import build_blocks
from spanbert_ext.pretrain.rows.held_out import split_documents, split_tokenised
from spanbert_ext.pretrain.rows.loader import ScheduledRows
from spanbert_ext.pretrain.rows.pair_cache import cached_pairs
from spanbert_ext.pretrain.rows.rows import Rows
from spanbert_ext.pretrain.rows.schedule import Phase, Schedule, ScheduleError
from spanbert_ext.pretrain.rows.token_documents import (
    PhraseFinder,
    TokenDocuments,
    rows_in_memory,
    tokenize_documents,
)
from spanbert_ext.pretrain.rows.tokenizer import TokenizerError, load_tokenizer, train_tokenizer
from spanbert_ext.pretrain.run.checkpoints import TOKENIZER
from spanbert_ext.pretrain.settings.masking_options import CANDIDATES
from spanbert_ext.pretrain.settings.options import OptionError, Options
from spanbert_ext.pretrain.text.corpus import load_documents
from spanbert_ext.pretrain.text.manifest import is_prepared, read_manifest
from spanbert_ext.pretrain.text.phrases import phrase_finder
from spanbert_ext.pretrain.text.table_cache import check_cache
from spanbert_ext.pretrain.text.text_files import CorpusError

_SEVERAL = (
    0.05  # of the random halves of pairs: from here on the next-sentence prediction is told something wrong
)
PAIR_RULES = {"google-pairs": "google", "spanbert-pairs": "spanbert"}
_MORE_DOCUMENTS = {
    "training": "A corpus of more documents has more; a blank line, or --document-separator, ends one.",
    "held-out": "--held-out takes a larger share.",
}


@dataclass(frozen=True)
class RunData:
    """What a run reads.

    train, held_out: rows of `--block-size`. short: rows of `--short-block-size` of the training documents, where some
    steps are on these. facts: what metrics.json says about the corpus; `corpus_digest` sees order and repetition."""

    tokenizer: PreTrainedTokenizerBase
    train: Rows
    held_out: Rows
    short: Rows | None
    facts: dict[str, Any]


@dataclass(frozen=True)
class _Documents:
    """Tokenised documents, and the numbers of those that are meant."""

    table: TokenDocuments
    numbers: np.ndarray


def reads_prepared(options: Options) -> bool:
    """Whether the corpus is the folder of a preparation."""
    return len(options.corpus) == 1 and is_prepared(options.corpus[0])


def trains_tokenizer(options: Options) -> bool:
    """Whether the run trains a tokenizer of its own on its text."""
    return options.tokenizer is None and options.starts_fresh and not reads_prepared(options)


def named_tokenizer(options: Options) -> PreTrainedTokenizerBase | None:
    """The tokenizer that a run is given; None where it trains one. Raises `TokenizerError`, and `CorpusError` where it
    is not that of a prepared corpus."""
    if trains_tokenizer(options):
        return None
    name = options.tokenizer or (None if options.starts_fresh else options.model)
    if not reads_prepared(options):
        return load_tokenizer(name)
    (corpus,) = options.corpus
    read_manifest(given_path(corpus))  # says so when the preparation has not ended
    if name is not None:
        tokenizer = load_tokenizer(name)
    else:
        try:
            tokenizer = load_tokenizer(str(given_path(corpus) / TOKENIZER))
        except TokenizerError as error:
            raise TokenizerError(
                f"{error}. It belongs to the prepared corpus: copy the folder {corpus} again, or make it again by"
                " spanbert-prepare --overwrite"
            ) from error
    check_tokenizer(corpus, tokenizer)
    return tokenizer


def _own_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The one that the run in `folder` trained as it began. Raises `TokenizerError` with the remedy."""
    path = folder / TOKENIZER
    try:
        return load_tokenizer(str(path))
    except TokenizerError as error:
        raise TokenizerError(
            f"{error}. The run trained this tokenizer on its text: delete the folder (rm -r {place(path)}), and"
            " --resume trains the same one again"
        ) from error


def known_tokenizer(options: Options, folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a run before it has read its text: that of `named_tokenizer`, or the one that a run which is
    resumed has trained and kept in its `folder`; None where it trains one. Raises as `named_tokenizer`."""
    if options.resume and trains_tokenizer(options):
        return _own_tokenizer(folder)
    return named_tokenizer(options)


def load_data(options: Options, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> RunData:
    """The rows of a run and their tokenizer.

    options: resolved ones; folder: the run's output folder, which has the tokenizer of a run that is resumed.
    tokenizer: that of `known_tokenizer`, where the caller has it. Raises `CorpusError`, `TokenizerError` and
    `OptionError`, before the text is read as far as possible, since that may take hours."""
    check_cache(options.cache_dir)
    tokenizer = known_tokenizer(options, folder) if tokenizer is None else tokenizer
    if reads_prepared(options):
        train, held_out, facts = _prepared(options)
    else:
        tokenizer, train, held_out, facts = _from_text(options, tokenizer)

    def rows(documents: _Documents, size: int, copies: int) -> Rows:
        return Rows(documents.table, _index(documents, options, size, copies), tokenizer, bool(options.nsp))

    train_rows = rows(train, options.block_size, options.pair_passes)
    held_out_rows = rows(held_out, options.block_size, 1)
    for part, made in (("training", train_rows), ("held-out", held_out_rows)):
        if not len(made):
            raise CorpusError(f"the tokenizer finds no token in the {part} documents")
        if options.nsp and made.share_not_elsewhere > _SEVERAL:
            print(
                f"Of the {part} pairs with a random second half {made.share_not_elsewhere:.0%} have one of the same"
                f" document, for want of others: their NSP says little. {_MORE_DOCUMENTS[part]}",
                flush=True,
            )
    short = rows(train, options.short_block_size, options.pair_passes) if options.short_phase else None
    kind = "pairs" if options.rows in PAIR_RULES else "blocks"
    facts |= {f"train_{kind}": len(train_rows), f"held_out_{kind}": len(held_out_rows)}
    return RunData(tokenizer, train_rows, held_out_rows, short, facts)


def make_schedule(options: Options, data: RunData, processes: int = 1) -> ScheduledRows:
    """The training rows in the order of the run: `max_steps` updates of `batch_size` rows for each process and
    accumulation step, or of about `tokens_per_batch` tokens in all. Raises `OptionError`."""
    parts = options.gradient_accumulation * processes
    kinds = [(data.short, options.short_steps), (data.train, options.max_steps - options.short_steps)]
    rows, phases = [], []
    for made, updates in kinds:
        if updates:
            tokens = options.tokens_per_batch
            phases.append(
                Phase(made.lengths, updates, None if tokens else options.batch_size * parts, tokens)
            )
            rows.append(made)
    try:
        schedule = Schedule(phases, options.seed, parts)
    except ScheduleError as error:
        raise OptionError(f"--tokens-per-batch is {options.tokens_per_batch}: {error}") from error
    # the copies of a pair have the masks of their own that static masking gives a row
    static = options.rows in PAIR_RULES and options.dupe_factor > 0
    return ScheduledRows(schedule, rows, static)


def _index(documents: _Documents, options: Options, size: int, copies: int) -> np.ndarray:
    if options.rows not in PAIR_RULES:
        return build_blocks(documents.table, documents.numbers, size)
    cache = given_path(options.cache_dir or datasets.config.HF_DATASETS_CACHE)
    rule, seed = PAIR_RULES[options.rows], options.seed
    try:
        return cached_pairs(
            cache, documents.table, documents.numbers, size, rule, options.short_rows, copies, seed
        )
    except OSError as error:
        raise CorpusError(
            f"the pairs cannot be kept in the cache {cache}: {error.strerror or error}; --cache-dir chooses another"
        ) from error


def _from_text(
    options: Options, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedTokenizerBase, _Documents, _Documents, dict[str, Any]]:
    finder = _phrase_finder(options)
    documents = load_documents(
        options.corpus,
        options.cache_dir,
        separator=options.document_separator,
        text_field=options.text_field,
    )
    split = split_documents(documents, options.held_out)
    print(f"Held out: {split.rule}.", flush=True)
    if tokenizer is None:
        tokenizer = train_tokenizer(
            lambda: (
                text for batch in split.train.iter(rows_in_memory(split.train)) for text in batch["text"]
            ),
            options.vocab_size,
            options.unused_ids,
        )
    tables = [
        TokenDocuments(tokenize_documents(texts, tokenizer, options.workers, finder))
        for texts in (split.train, split.held_out)
    ]
    facts = _facts(options, np.asarray(documents.data.column("digest")), split.unit, len(split.held_out))
    train, held_out = (_Documents(table, np.arange(len(table))) for table in tables)
    return tokenizer, train, held_out, facts


def _prepared(options: Options) -> tuple[_Documents, _Documents, dict[str, Any]]:
    (corpus,) = options.corpus
    phrases = read_manifest(given_path(corpus))["settings"]["phrases"]
    if options.masking in CANDIDATES and phrases != options.masking:
        raise OptionError(
            f"--masking is {options.masking!r} but the corpus in {corpus} was prepared with"
            f" {f'--phrases {phrases}' if phrases else 'no --phrases'}: prepare it with --phrases {options.masking}"
        )
    documents = load_prepared(corpus)
    if options.masking not in CANDIDATES and phrases:
        documents = documents.remove_columns("candidates")  # the collator would mask them first
    table = TokenDocuments(documents)
    split = split_tokenised(table, options.held_out)
    print(f"Held out: {split.rule}.", flush=True)
    facts = _facts(options, table.digests, split.unit, len(split.held_out))
    return _Documents(split.documents, split.train), _Documents(split.documents, split.held_out), facts


def _facts(options: Options, digests: np.ndarray, unit: str, held_out: int) -> dict[str, Any]:
    return {
        "corpus": options.corpus or ["the interpreter's documentation (built-in)"],
        "corpus_digest": hashlib.blake2b(digests.tobytes(), digest_size=8).hexdigest(),  # order counts
        "documents": len(digests),
        "held_out_unit": unit,
        f"held_out_{unit}": held_out,
    }


def _phrase_finder(options: Options) -> PhraseFinder | None:
    if options.masking not in CANDIDATES:
        return None
    try:
        return phrase_finder(options.masking)
    except ImportError as error:
        raise OptionError(f"--masking is {options.masking!r}: {error}") from error
