# SPDX-License-Identifier: Apache-2.0
"""The folder that older programs read: the published fine-tuning scripts, the coreference code, old libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spanbert_ext.convert.write_fairseq import published_tensors, save_old_format

WEIGHTS_FILE, CONFIG_FILES, VOCABULARY_FILE = (
    "pytorch_model.bin",
    ("config.json", "bert_config.json"),
    "vocab.txt",
)
_CONFIG = (
    "attention_probs_dropout_prob",
    "hidden_act",
    "hidden_dropout_prob",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "pad_token_id",
    "type_vocab_size",
    "vocab_size",
)


def write_legacy(model: Any, folder: Path, parts: tuple[str, ...]) -> None:
    """Writes a configuration, under both of its old names, and `pytorch_model.bin`: a plain dictionary of float32
    tensors in the format that torch had before 1.6, with the keys `bert.*` and `cls.*`.

    LayerNorms are weight and bias: the converter to TensorFlow of the coreference code looks for these, and all other
    readers know them. They pass over the keys of heads that they do not have, so the SBO's stand there too.

    Args:
        parts: of published_names.PARTS, the heads to write.

    Raises:
        CheckpointError: as `published_tensors`.
    """
    config = {name: getattr(model.config, name) for name in _CONFIG}
    config |= {"architectures": ["BertForMaskedLM"], "directionality": "bidi", "model_type": "bert"}
    if "NSP head" in parts:
        config["architectures"] = ["BertForPreTraining"]
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    tensors = published_tensors(model, parts, gamma_beta=False)
    for name in CONFIG_FILES:
        (folder / name).write_text(text, encoding="utf-8")
    save_old_format(tensors, folder / WEIGHTS_FILE)


def write_vocabulary(tokens: list[str], folder: Path) -> None:
    """`vocab.txt`, a token a line."""
    (folder / VOCABULARY_FILE).write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
