# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of a run: one that exists, or a cased WordPiece trained on the training documents."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator

from tokenizers import Tokenizer, models, trainers
from transformers import AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerBase

from spanbert_ext.files.messages import reason
from spanbert_ext.files.paths import given_path
from spanbert_ext.masking.letter_case import cased_share, is_cased, lowers_text
from spanbert_ext.pretrain.text.sentences import cut_text
from spanbert_ext.pretrain.text.text_files import CorpusError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUES = "##"
_STRANGE = (
    "\U00010000 \U0001d7d8"  # a sign of Linear B and a double-struck digit, which next to no vocabulary has
)


class TokenizerError(ValueError):
    """The tokenizer cannot be used for span masking; the message names it and the reason."""


def train_tokenizer(
    texts: Callable[[], Iterable[str]], vocab_size: int, unused_ids: int = 0
) -> PreTrainedTokenizerBase:
    """A cased WordPiece vocabulary of `vocab_size` pieces, fewer when the text has no more.

    BERT's five special tokens come first, then as many `[unusedN]`, numbered from 0, as `unused_ids` says: no text is
    ever tokenized as one, no mask puts one in, so they are free for words that are added later. The same text gives the
    same vocabulary.

    texts: called twice. The trainer numbers characters in the order of a hash table, and breaks ties by these
    numbers; so a first pass finds the characters, and the second is given them in a fixed order.
    """
    pieces = _train(texts(), 0, SPECIAL_TOKENS)  # a size of 0: the characters, no merges
    characters = sorted(set(pieces) - set(SPECIAL_TOKENS))
    reserved = [f"[unused{number}]" for number in range(unused_ids)]
    if not characters:
        raise CorpusError("the training documents hold no character to train a tokenizer on")
    fixed = (*SPECIAL_TOKENS, *reserved, *characters)
    if vocab_size < len(fixed):
        kinds = f"special tokens, {unused_ids} unused ids" if unused_ids else "special tokens"
        raise TokenizerError(
            f"--vocab-size is {vocab_size}, but {kinds} and the corpus' characters are {len(fixed)}"
        )
    return BertTokenizerFast(vocab=_train(texts(), vocab_size, fixed), do_lower_case=False)


def _train(texts: Iterable[str], vocab_size: int, fixed: tuple[str, ...]) -> dict[str, int]:
    """WordPiece vocabulary with `fixed` as its first ids."""
    bert = BertTokenizerFast(do_lower_case=False).backend_tokenizer
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = bert.normalizer, bert.pre_tokenizer
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=list(fixed),  # for the trainer: ids to give first
        continuing_subword_prefix=CONTINUES,
        show_progress=False,
    )
    whole = (text.strip() for text in texts)  # cut at white space, where a word ends too
    pieces = (text[start:end] for text in whole for start, end in cut_text(text, 0, len(text)))
    _train_answering_signals(tokenizer, pieces, trainer)
    return tokenizer.get_vocab()


def _train_answering_signals(
    tokenizer: Tokenizer, texts: Iterable[str], trainer: trainers.WordPieceTrainer
) -> None:
    """`tokenizer.train_from_iterator(texts, trainer)`, which takes minutes for much text and returns to Python only
    for texts: in a thread of its own, while this one waits, where Python answers signals.

    What a signal raises goes on once no text is being read; the thread then has no more to do with Python."""
    stopped, all_read = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def read() -> Iterator[str]:
        try:
            yield from itertools.takewhile(lambda _: not stopped.is_set(), texts)
        finally:
            all_read.set()

    def train() -> None:
        try:
            tokenizer.train_from_iterator(read(), trainer)
        except BaseException as error:
            failures.append(error)
        finally:
            all_read.set()

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        stopped.set()
        all_read.wait()
        raise
    if failures:
        raise failures[0]


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The fast tokenizer in folder `name`, or of that name on the Hugging Face hub.

    Raises `TokenizerError` when it cannot be loaded, is not fast, lacks a mask, cls, sep or pad token, has no other
    tokens, takes the capitals away that its vocabulary has, or fails at a word that it does not know.
    """
    path = given_path(name)
    is_folder = os.path.isdir(
        path
    )  # False too of a name that is too long, or in a folder that may not be entered
    if os.path.isfile(path) or (
        not os.path.exists(path) and len(path.parts) > 2
    ):  # a hub name has at most one slash
        raise TokenizerError(f"tokenizer {name!r} is not a folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path) if is_folder else name, trust_remote_code=False)
    except Exception as error:  # missing files, no network, not a tokenizer: many types
        where = "folder" if is_folder else "no such folder; as a hub name"
        raise TokenizerError(f"cannot load tokenizer {name!r} ({where}): {reason(error)}") from error
    missing = [
        kind for kind in ("mask", "cls", "sep", "pad") if getattr(tokenizer, f"{kind}_token_id") is None
    ]
    if missing:
        raise TokenizerError(
            f"tokenizer {name!r} has no {' and no '.join(missing)} token:"
            " pre-training needs mask, cls, sep and pad"
        )
    if not tokenizer.is_fast:
        raise TokenizerError(f"tokenizer {name!r} is not a fast one (no tokenizer.json)")
    if len(tokenizer) <= len(
        set(tokenizer.all_special_ids)
    ):  # what a class makes of itself without its files
        raise TokenizerError(f"tokenizer {name!r} has special tokens alone: files of it are missing")
    if is_cased(tokenizer.get_vocab()) and lowers_text(tokenizer):
        cased = cased_share(tokenizer.get_vocab())
        raise TokenizerError(
            f"tokenizer {name!r} makes lower case of all text, and {cased:.0%} of its vocabulary have capitals: its"
            ' settings are missing, as in the published SpanBERT folders. Write {"do_lower_case": false} into'
            " tokenizer_config.json beside vocab.txt, or let spanbert-convert do it"
        )
    try:
        tokenizer(_STRANGE, add_special_tokens=False)
    except Exception as error:  # the tokenizers library has no type for it
        raise TokenizerError(
            f"tokenizer {name!r} fails at characters that it does not know: {reason(error)}"
        ) from error
    return tokenizer


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of all that decides which ids a text has, in a run and in a prepared corpus: the same after the tokenizer was
    saved and loaded. What it was last asked to pad or cut is left out."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str()) | {"padding": None, "truncation": None}
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()
