# SPDX-License-Identifier: Apache-2.0
"""How long a row an encoder can read."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from spanbert_ext.models.families import FAMILIES


def most_positions(encoder: Any) -> int | None:
    """Tokens of the longest row that a model reads; None where it states no limit.

    That is its `max_position_embeddings`, which models without a table of positions (rotary ones) state as well. Of a
    table with a padding id, as RoBERTa's and its kin's, rows begin behind that id, and are that many shorter.

    Args:
        encoder: a model, or a configuration: of that a model is built whose tensors hold nothing, since the padding id
            shows in the model alone.
    """
    config = encoder.config if isinstance(encoder, nn.Module) else encoder
    stated = _stated(config) or _stated(config.get_text_config())
    if stated is None:
        return None
    model = encoder if isinstance(encoder, nn.Module) else _without_memory(config)
    for name, module in () if model is None else model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            return stated - padding - 1
    return stated


def _stated(config: Any) -> int | None:
    positions = getattr(config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None


def _without_memory(config: Any) -> nn.Module | None:
    """A model of the configuration on the meta device; None where none can be built, which its loading explains."""
    family = FAMILIES.get(config.model_type)
    native = None if family is None else family.native_class  # of a registered family
    build = AutoModel.from_config if native is None else native
    try:
        with torch.device("meta"):
            return build(copy.deepcopy(config))
    except Exception:
        return None
