# SPDX-License-Identifier: Apache-2.0
"""A model's tokenizer: from its folder, from a vocabulary file, or from another folder or the hub."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerBase

from spanbert_ext.convert.checkpoint_file import CheckpointError
from spanbert_ext.files.messages import reason
from spanbert_ext.files.paths import given_path
from spanbert_ext.masking.letter_case import is_cased, lowers_for_want_of_settings

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_DICTIONARY_LINE = re.compile(r"(\S+) -?\d+")  # of fairseq's dict.txt
_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")  # the last: of SentencePiece


def has_vocabulary(folder: Path) -> bool:
    return any(path.is_file() for name in _FILES for path in folder.glob(name))


def load_vocabulary(source: str | Path, positions: int) -> PreTrainedTokenizerBase:
    """The tokenizer that `source` is: a vocabulary file (a token a line, or fairseq's dict.txt), a folder, a hub name.

    A vocabulary file of BERT says nothing about case. It is taken to be cased when `is_cased`: transformers would lower
    all text, which the published SpanBERT folders leave to it.

    Args:
        positions: that the model has: the longest text, unless the tokenizer says it.

    Raises:
        CheckpointError: the file or folder holds none.
    """
    path = given_path(source)
    if os.path.isfile(path):
        return _of_tokens(read_vocabulary(path), positions)
    folder = path if os.path.isdir(path) else None
    # Of what is no vocabulary transformers makes a tokenizer of special tokens alone.
    if folder is not None and not has_vocabulary(folder):
        raise CheckpointError(f"{folder} has no vocabulary: none of {', '.join(_FILES)}")
    if folder is not None and not (folder / "tokenizer.json").is_file() and (folder / "vocab.txt").is_file():
        settings = _settings(folder)
        if "do_lower_case" not in settings:
            return _of_tokens(read_vocabulary(folder / "vocab.txt"), positions)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder or source), trust_remote_code=False)
    except Exception as error:  # missing files, no network, not a tokenizer: many types
        where = "folder" if folder else "no such file or folder; as a hub name"
        raise CheckpointError(f"cannot load a tokenizer from {source} ({where}): {reason(error)}") from error
    return in_its_case(tokenizer, positions)


def in_its_case(tokenizer: PreTrainedTokenizerBase, positions: int) -> PreTrainedTokenizerBase:
    """A tokenizer that was loaded, or, where it `lowers_for_want_of_settings`, one that keeps case.

    Args:
        positions: as in `load_vocabulary`.
    """
    return (
        _of_tokens(tokens_of(tokenizer), positions) if lowers_for_want_of_settings(tokenizer) else tokenizer
    )


def read_vocabulary(path: Path) -> list[str]:
    """The tokens of a file in the order of their ids. Raises `CheckpointError`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # a byte order mark is no part of a token
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is no vocabulary: byte {error.start} is no UTF-8") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    tokens = [line.removesuffix("\r") for line in lines]
    while tokens and not tokens[-1]:
        tokens.pop()
    if tokens and all(_DICTIONARY_LINE.fullmatch(token) for token in tokens):
        tokens = [token.rpartition(" ")[0] for token in tokens]
    places: dict[str, int] = {}
    for number, token in enumerate(tokens, 1):
        if token in places:
            raise CheckpointError(f"{path}: {token!r} stands in line {places[token]} and in line {number}")
        places[token] = number
    missing = [token for token in _SPECIAL if token not in places]
    if missing:
        raise CheckpointError(f"{path} is no vocabulary of a BERT: it has no {', '.join(missing)}")
    return tokens


def tokens_of(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The tokens of a WordPiece tokenizer by their ids. Raises `CheckpointError` for any other one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if type(getattr(backend, "model", None)).__name__ != "WordPiece":
        raise CheckpointError(
            f"{type(tokenizer).__name__} has no WordPiece vocabulary, the only one that old programs read"
        )
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    if [vocabulary[token] for token in tokens] != [*range(len(tokens))]:
        raise CheckpointError(f"{type(tokenizer).__name__}: its ids are not the numbers from 0 on")
    return tokens


def check_size(tokenizer: PreTrainedTokenizerBase, rows: int, source: str | Path) -> None:
    """Raises `CheckpointError` when there are tokens without a row of the embeddings."""
    if len(tokenizer) > rows:
        raise CheckpointError(
            f"the tokenizer of {source} has {len(tokenizer)} tokens, but the model's embeddings have {rows} rows: it"
            " is another model's"
        )


def _of_tokens(tokens: list[str], positions: int) -> PreTrainedTokenizerBase:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    return BertTokenizerFast(
        vocab=vocabulary, do_lower_case=not is_cased(vocabulary), model_max_length=positions
    )


def _settings(folder: Path) -> dict[str, Any]:
    """A folder's tokenizer_config.json. Raises `CheckpointError` where that is no JSON object."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} holds a {type(settings).__name__}, expected a JSON object")
    return settings
