"""What the heads and the last layer know of each encoder family of transformers: a row of FAMILIES a model type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from spanbert_ext.models.last_layers import RowModules, bert_last_layer
from spanbert_ext.models.mlm_heads import MlmHead, bert_head


class Family(NamedTuple):
    mlm_head: Callable[[Any], MlmHead]
    last_layer: Callable[[Any], RowModules | None]  # None: all rows are computed


FAMILIES: dict[str, Family] = {"bert": Family(bert_head, bert_last_layer)}
