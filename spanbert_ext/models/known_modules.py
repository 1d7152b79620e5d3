# SPDX-License-Identifier: Apache-2.0
"""Modules whose class is known: what the rule of `fused_path` compares a model's modules with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn
from transformers.activations import ACT2CLS

# Modules that work on rows [..., H] one by one, where those do that they call, by the names of these. An activation
# that a configuration names is a function of single elements; a callable of the user's may be anything.
RowWise = Mapping[type[nn.Module], tuple[str, ...]]
_ACTIVATIONS = (entry if isinstance(entry, type) else entry[0] for entry in ACT2CLS.values())
ROW_WISE: RowWise = dict.fromkeys((nn.Linear, nn.LayerNorm, nn.Dropout, nn.Identity, *_ACTIVATIONS), ())


def name_stem(native: type) -> str:
    """The prefix that the classes of a family's file have in common."""
    return native.__name__.removesuffix("ForMaskedLM").removesuffix("ForPreTraining")


class Known(NamedTuple):
    """A module with the path by which messages name it and the class that it must be of."""

    path: str
    module: nn.Module | None
    exact: type[nn.Module]
