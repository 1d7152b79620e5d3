# SPDX-License-Identifier: Apache-2.0
"""Sizes of a BERT that starts from random weights."""

from __future__ import annotations

from typing import Any

# Keyword arguments of transformers.BertConfig.
MODELS: dict[str, dict[str, Any]] = {
    "demo": {
        "hidden_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 512,
        "max_position_embeddings": 512,
    },
    "tiny": {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 512,
    },
    "mini": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
    "small": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
    },
    "base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}
# The peak learning rate of each on one's own text, where no recipe says another: a small model bears a higher one.
RANDOM_START_RATES = {"tiny": 1e-3, "mini": 1e-3, "small": 5e-4, "base": 1e-4, "large": 1e-4}
SMALL = ("demo", "tiny", "mini")  # on a CPU most of a step is calls and waits, not arithmetic
