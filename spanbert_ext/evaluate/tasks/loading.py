# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's tokenizer, configuration, and model with a head for a task."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from spanbert_ext.convert.vocabulary import in_its_case
from spanbert_ext.evaluate.tasks.form import Checkpoint, EvaluationError
from spanbert_ext.files.bars import quiet_transformers
from spanbert_ext.files.messages import reason
from spanbert_ext.masking.row_ends import REMEDY
from spanbert_ext.models.positions import most_positions

# The files with which a tokenizer begins. Without any, transformers makes one that knows no word.
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
_FEWEST_POSITIONS = 16


def load_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """A fast one: places of tokens in the text are read from it. It gives token types only where the encoder has two.
    Raises `EvaluationError`."""
    if not any((checkpoint.folder / name).is_file() for name in TOKENIZER_FILES):
        raise EvaluationError(f"{checkpoint.folder} has no tokenizer (none of {', '.join(TOKENIZER_FILES)})")
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
        tokenizer = in_its_case(tokenizer, tokenizer.model_max_length)
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
    config = load_config(checkpoint)
    words = getattr(config, "vocab_size", None)
    if words is not None and len(tokenizer) > words:
        raise EvaluationError(
            f"the tokenizer in {checkpoint.folder} has {len(tokenizer):,} tokens, the model {words:,}: they do not"
            " belong together"
        )
    if (getattr(config, "type_vocab_size", 0) or 0) < 2:
        names = tokenizer.model_input_names
        tokenizer.model_input_names = [name for name in names if name != "token_type_ids"]
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
    """Tokens of a row: as many as wanted, where the encoder has positions for them. Raises `EvaluationError` for one
    with so few that a row has no room for what every row needs."""
    positions = most_positions(load_config(checkpoint))
    if positions is not None and positions < _FEWEST_POSITIONS:
        raise EvaluationError(
            f"the encoder in {checkpoint.folder} has positions for {positions} tokens, expected {_FEWEST_POSITIONS}"
            " at least"
        )
    return wanted if positions is None else min(wanted, positions)


def check_first_token(checkpoint: Checkpoint, meaning: str) -> None:
    """Raises `EvaluationError` where the tokenizer puts no cls into a row of two texts. meaning: of that token."""
    tokenizer = load_tokenizer(checkpoint)
    if tokenizer.cls_token_id not in tokenizer("one", "two")["input_ids"]:
        raise EvaluationError(
            f"the tokenizer in {checkpoint.folder} puts no {tokenizer.cls_token} into a row, {meaning}: {REMEDY}"
        )


def load_model(auto_class: Any, checkpoint: Checkpoint, seed: int, **configuration: Any) -> PreTrainedModel:
    """The checkpoint's encoder, in float32, with the head of a transformers auto class (or, of AutoModel, without one).
    The head is drawn by `seed` alone: the same for all encoders of one size, whether they have a pooler or not, and
    also where the checkpoint holds a head that was trained before. Raises `EvaluationError` where weights of the
    encoder are not there or of another shape."""
    torch.manual_seed(seed)
    try:
        with quiet_transformers():
            model, loading = auto_class.from_pretrained(
                checkpoint.folder,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # of a head for other classes; those of the encoder are refused below
                **configuration,
            )
    except Exception as error:
        raise EvaluationError(f"{checkpoint.folder} cannot be loaded: {reason(error)}") from error
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    if wrong := sorted(name for name, *_ in loading["mismatched_keys"] if name.startswith(prefix)):
        raise EvaluationError(
            f"{checkpoint.folder} cannot be loaded: {wrong[0]} has not the shape that config.json says"
        )
    missing = sorted(
        name for name in loading["missing_keys"] if name.startswith(prefix) and ".pooler." not in f".{name}"
    )
    if missing:
        raise EvaluationError(
            f"{checkpoint.folder} lacks {len(missing)} weights of its encoder ({missing[0]}, ...): it would be"
            " judged by random ones"
        )
    _draw_head(model, seed)
    return model


@torch.no_grad()
def _draw_head(model: PreTrainedModel, seed: int) -> None:
    """Draws the weights outside the encoder anew, and leaves torch's generator where every checkpoint leaves it."""
    torch.manual_seed(seed)
    encoder = set(model.base_model.modules())
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        if own and module not in encoder:
            for parameter in own:
                parameter._is_hf_initialized = False  # else transformers keeps what was loaded
            model._init_weights(module)
