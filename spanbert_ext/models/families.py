"""What the heads and the last layer know of each encoder family of transformers: a row of FAMILIES a model type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn
from transformers.activations import ACT2CLS
from transformers.models.bert.modeling_bert import (
    BertAttention,
    BertEncoder,
    BertIntermediate,
    BertLayer,
    BertLMPredictionHead,
    BertModel,
    BertOnlyMLMHead,
    BertOutput,
    BertPredictionHeadTransform,
    BertSelfOutput,
)

# Modules that work on rows [..., H] one by one, where those do that they call, by the names of these. An activation
# that a configuration names is a function of single elements; a callable of the user's may be anything.
RowWise = Mapping[type[nn.Module], tuple[str, ...]]
_ACTIVATIONS = (entry if isinstance(entry, type) else entry[0] for entry in ACT2CLS.values())
_ROW_WISE: RowWise = dict.fromkeys((nn.Linear, nn.LayerNorm, nn.Dropout, nn.Identity, *_ACTIVATIONS), ())
_BERT_TRANSFORM: RowWise = {
    **_ROW_WISE,
    BertPredictionHeadTransform: ("dense", "transform_act_fn", "LayerNorm"),
}
_BERT_LAYER: RowWise = {
    **_ROW_WISE,
    BertSelfOutput: ("dense", "dropout", "LayerNorm"),
    BertIntermediate: ("dense", "intermediate_act_fn"),
    BertOutput: ("dense", "dropout", "LayerNorm"),
}


class Known(NamedTuple):
    """A module with the path by which messages name it and the class that it must be of."""

    path: str
    module: nn.Module | None
    exact: type[nn.Module]


class MlmHead(NamedTuple):
    """A native MLM head: `whole(x) = decoder(transform(x))`, [..., H] -> [..., V]. A head of the user's may be `whole`
    alone."""

    whole: nn.Module
    around: tuple[Known, ...]  # `whole`, and what else lies around `transform` and `decoder`
    transform: Known  # [..., H] -> [..., D]
    decoder: Known  # [..., D] -> [..., V]
    row_wise: RowWise  # what `transform` is made of


class RowModules(NamedTuple):
    """Of an encoder's last layer: `first` is the first module behind its attention, `last` the last one."""

    layer: nn.Module
    first: Known
    between: tuple[Known, ...]
    last: Known
    around: tuple[Known, ...]  # what calls them, or sees what they return
    row_wise: RowWise  # what `first`, `between` and `last` are made of


class Family(NamedTuple):
    mlm_head: Callable[[Any], MlmHead]
    last_layer: Callable[[Any], RowModules | None]  # None: all rows are computed


def _bert_head(model: Any) -> MlmHead:
    predictions = getattr(model.cls, "predictions", None)  # a head of the user's may have none
    path = "cls.predictions"
    try:
        decoder = model.get_output_embeddings()
    except AttributeError:  # transformers looks for it in there
        decoder = None
    return MlmHead(
        model.cls,
        (Known("cls", model.cls, BertOnlyMLMHead), Known(path, predictions, BertLMPredictionHead)),
        Known(f"{path}.transform", getattr(predictions, "transform", None), BertPredictionHeadTransform),
        Known(f"{path}.decoder", decoder, nn.Linear),
        _BERT_TRANSFORM,
    )


def _bert_last_layer(model: Any) -> RowModules | None:
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


FAMILIES: dict[str, Family] = {"bert": Family(_bert_head, _bert_last_layer)}
