# SPDX-License-Identifier: Apache-2.0
"""Folders as the published models have on the hub, tiny, and the command that converts them."""

from __future__ import annotations

import json
from pathlib import Path

from published_samples import INTERMEDIATE, LAYERS, POSITIONS, VOCABULARY, H, V, published_state, save
from safetensors.torch import save_file

from spanbert_ext.convert import convert_cli

HEADS = 4
CONFIG = {  # of the published folders, but for the sizes
    "attention_probs_dropout_prob": 0.1,
    "directionality": "bidi",
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": H,
    "initializer_range": 0.02,
    "intermediate_size": INTERMEDIATE,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": POSITIONS,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "type_vocab_size": 2,
    "vocab_size": V,
    "model_type": "bert",
}


def hub_folder(
    folder: Path, state: dict, kind: str = "bin", config: dict | None = None, vocabulary=True
) -> Path:
    """As SpanBERT/spanbert-*-cased: a configuration, weights, a vocabulary, and nothing about the tokenizer."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    if kind == "safetensors":
        save_file(
            {name: x.clone() for name, x in state.items()}, folder / "model.safetensors", {"format": "pt"}
        )
    else:
        save(state, folder / "pytorch_model.bin")
    if vocabulary:
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
    return folder


def encoder_alone(gamma: bool = True) -> dict:
    return published_state(None, mlm=False, gamma=gamma)


def command(*arguments) -> int:
    return convert_cli.main([*map(str, arguments), "--no-progress"])
