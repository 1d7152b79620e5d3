"""The tokenizer of a run: one that exists, or a cased WordPiece trained on the training documents."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from transformers import AutoTokenizer, BertTokenizerFast, PreTrainedTokenizerBase

from spanbert_ext.pretrain.corpus import CorpusError


class TokenizerError(ValueError):
    """The tokenizer cannot be used for span masking; the message says which one and why."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A cased WordPiece vocabulary of at most `vocab_size` pieces, with BERT's five special tokens as ids 0
    to 4."""
    tokenizer = BertTokenizerFast(do_lower_case=False).train_new_from_iterator(
        texts, vocab_size, show_progress=False
    )
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise CorpusError("the training documents hold no character to train a tokenizer on")
    return tokenizer


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The fast tokenizer in folder `name`, or of that name on the Hugging Face hub. Raises
    `TokenizerError`."""
    path = Path(name).expanduser()
    if path.is_file() or (not path.exists() and len(path.parts) > 2):  # a hub name has at most one slash
        raise TokenizerError(f"tokenizer {name!r} is not a folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path) if path.is_dir() else name)
    except Exception as error:  # missing files, no network, not a tokenizer: many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        where = "folder" if path.is_dir() else "no such folder; as a hub name"
        raise TokenizerError(f"cannot load tokenizer {name!r} ({where}): {reason}") from error
    check_tokenizer(tokenizer, name)
    return tokenizer


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raises `TokenizerError` unless `tokenizer` is fast and has mask, cls, sep and pad tokens."""
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
