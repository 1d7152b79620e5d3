"""Which modules lie behind the last attention of each encoder family of transformers."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn
from transformers.models.bert.modeling_bert import (
    BertAttention,
    BertEncoder,
    BertIntermediate,
    BertLayer,
    BertModel,
    BertOutput,
    BertSelfOutput,
)

from spanbert_ext.models.known_modules import ROW_WISE, Known, RowWise

_BERT_LAYER: RowWise = {
    **ROW_WISE,
    BertSelfOutput: ("dense", "dropout", "LayerNorm"),
    BertIntermediate: ("dense", "intermediate_act_fn"),
    BertOutput: ("dense", "dropout", "LayerNorm"),
}


class RowModules(NamedTuple):
    """Of an encoder's last layer: `first` is the first module behind its attention, `last` the last one."""

    layer: nn.Module
    first: Known
    between: tuple[Known, ...]
    last: Known
    around: tuple[Known, ...]  # what calls them, or sees what they return
    row_wise: RowWise  # what `first`, `between` and `last` are made of


def bert_last_layer(model: Any) -> RowModules | None:
    if type(model.bert) is not BertModel or type(model.bert.encoder) is not BertEncoder:
        return None
    layers = model.bert.encoder.layer
    if (
        type(layers) is not nn.ModuleList  # another list may have another order
        or len(layers) == 0
        or type(layers[-1]) is not BertLayer
        or type(layers[-1].attention) is not BertAttention
    ):
        return None
    layer = layers[-1]
    if layer.add_cross_attention or layer.chunk_size_feed_forward > 0:
        return None  # what lies between them needs whole sequences
    path = f"bert.encoder.layer.{len(layers) - 1}"
    return RowModules(
        layer,
        Known(f"{path}.attention.output", layer.attention.output, BertSelfOutput),
        (Known(f"{path}.intermediate", layer.intermediate, BertIntermediate),),
        Known(f"{path}.output", layer.output, BertOutput),
        (
            Known("bert", model.bert, BertModel),
            Known("bert.encoder", model.bert.encoder, BertEncoder),
            Known(path, layer, BertLayer),
            Known(f"{path}.attention", layer.attention, BertAttention),
        ),
        _BERT_LAYER,
    )
