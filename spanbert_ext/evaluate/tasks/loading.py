"""A checkpoint's tokenizer, configuration, and model with a head for a task."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from spanbert_ext.evaluate.tasks.form import Checkpoint, EvaluationError
from spanbert_ext.models.positions import most_positions
from spanbert_ext.pretrain.files.messages import reason

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
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
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
        return AutoConfig.from_pretrained(checkpoint.folder)
    except Exception as error:
        raise EvaluationError(
            f"{checkpoint.folder} has no configuration that loads: {reason(error)}"
        ) from error


def longest_row(checkpoint: Checkpoint, wanted: int) -> int:
    """Tokens of a row: as many as wanted, where the encoder has positions for them."""
    positions = most_positions(load_config(checkpoint))
    return wanted if positions is None else min(wanted, positions)


def load_model(auto_class: Any, checkpoint: Checkpoint, seed: int, **configuration: Any) -> PreTrainedModel:
    """The checkpoint's encoder with the head of a transformers auto class, whose weights are drawn by `seed`: the same
    for every encoder of one size. In float32. Raises `EvaluationError` where weights of the encoder are not there."""
    model, missing = _load(auto_class, checkpoint, seed, configuration)
    prefix = f"{model.base_model_prefix}."
    _demand_encoder(checkpoint, [name for name in missing if name.startswith(prefix)])
    return model


def load_encoder(checkpoint: Checkpoint) -> PreTrainedModel:
    """The checkpoint's encoder without a head, in float32. Raises `EvaluationError` where weights of it are not
    there."""
    model, missing = _load(AutoModel, checkpoint, 0, {})
    _demand_encoder(checkpoint, missing)
    return model


def _load(
    auto_class: Any, checkpoint: Checkpoint, seed: int, configuration: dict[str, Any]
) -> tuple[PreTrainedModel, list[str]]:
    """The model, and the names of weights that the checkpoint does not have."""
    torch.manual_seed(seed)
    try:
        with _quiet():
            model, loading = auto_class.from_pretrained(
                checkpoint.folder, dtype=torch.float32, output_loading_info=True, **configuration
            )
    except Exception as error:
        raise EvaluationError(f"{checkpoint.folder} cannot be loaded: {reason(error)}") from error
    return model, sorted(loading["missing_keys"])


def _demand_encoder(checkpoint: Checkpoint, missing: list[str]) -> None:
    missing = [name for name in missing if ".pooler." not in f".{name}"]
    if missing:
        raise EvaluationError(
            f"{checkpoint.folder} lacks {len(missing)} weights of its encoder ({missing[0]}, ...): it would be"
            " judged by random ones"
        )


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
