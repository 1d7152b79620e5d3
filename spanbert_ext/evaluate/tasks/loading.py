"""A checkpoint's tokenizer, configuration, and model with a head for a task."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from spanbert_ext.evaluate.tasks.form import Checkpoint, EvaluationError
from spanbert_ext.files.messages import reason
from spanbert_ext.models.positions import most_positions

# The files with which a tokenizer begins. Without any, transformers makes one that knows no word.
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """A fast one: places of tokens in the text are read from it. Raises `EvaluationError`."""
    if not any((checkpoint.folder / name).is_file() for name in TOKENIZER_FILES):
        raise EvaluationError(f"{checkpoint.folder} has no tokenizer (none of {', '.join(TOKENIZER_FILES)})")
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
    except Exception as error:  # missing files, an unknown class
        raise EvaluationError(f"{checkpoint.folder} has no tokenizer that loads: {reason(error)}") from error
    if not tokenizer.is_fast:
        raise EvaluationError(
            f"{checkpoint.folder} has a {type(tokenizer).__name__}, which does not tell where tokens stand in"
            " the text: expected a fast tokenizer"
        )
    missing = [name for name in ("cls_token", "sep_token", "pad_token") if getattr(tokenizer, name) is None]
    if missing:
        raise EvaluationError(f"the tokenizer in {checkpoint.folder} has no {', '.join(missing)}")
    words = getattr(load_config(checkpoint), "vocab_size", None)
    if words is not None and len(tokenizer) > words:
        raise EvaluationError(
            f"the tokenizer in {checkpoint.folder} has {len(tokenizer):,} tokens, the model {words:,}: they do not"
            " belong together"
        )
    return tokenizer


def load_config(checkpoint: Checkpoint) -> Any:
    """Raises `EvaluationError`."""
    try:
        return AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
    except Exception as error:
        raise EvaluationError(
            f"{checkpoint.folder} has no configuration that loads: {reason(error)}"
        ) from error


def longest_row(checkpoint: Checkpoint, wanted: int) -> int:
    """Tokens of a row: as many as wanted, where the encoder has positions for them."""
    positions = most_positions(load_config(checkpoint))
    return wanted if positions is None else min(wanted, positions)


def load_model(auto_class: Any, checkpoint: Checkpoint, seed: int, **configuration: Any) -> PreTrainedModel:
    """The checkpoint's encoder, in float32, with the head of a transformers auto class (or, of AutoModel, without one).
    New weights are drawn by `seed`, and what is drawn afterwards is the same for every checkpoint. Raises
    `EvaluationError` where weights of the encoder are not there."""
    torch.manual_seed(seed)
    try:
        with _quiet():
            model, loading = auto_class.from_pretrained(
                checkpoint.folder,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
                **configuration,
            )
    except Exception as error:
        raise EvaluationError(f"{checkpoint.folder} cannot be loaded: {reason(error)}") from error
    torch.manual_seed(seed)  # a checkpoint without a pooler has drawn more
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    missing = sorted(
        name for name in loading["missing_keys"] if name.startswith(prefix) and ".pooler." not in f".{name}"
    )
    if missing:
        raise EvaluationError(
            f"{checkpoint.folder} lacks {len(missing)} weights of its encoder ({missing[0]}, ...): it would be"
            " judged by random ones"
        )
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the table of a new head's weights and the bar of loading, which every job would print."""
    logger = transformers_logging.get_logger("transformers")
    before, bars = logger.level, transformers_logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(before)
        if bars:
            transformers_logging.enable_progress_bar()
