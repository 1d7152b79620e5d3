"""Where each encoder family of transformers keeps the transform and the decoder of its MLM head."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn
from transformers.models.bert.modeling_bert import (
    BertLMPredictionHead,
    BertOnlyMLMHead,
    BertPredictionHeadTransform,
)

from spanbert_ext.models.known_modules import ROW_WISE, Known, RowWise

_BERT_TRANSFORM: RowWise = {
    **ROW_WISE,
    BertPredictionHeadTransform: ("dense", "transform_act_fn", "LayerNorm"),
}


class MlmHead(NamedTuple):
    """A native MLM head: `whole(x) = decoder(transform(x))`, [..., H] -> [..., V]. A head of the user's may be `whole`
    alone."""

    whole: nn.Module
    around: tuple[Known, ...]  # `whole`, and what else lies around `transform` and `decoder`
    transform: Known  # [..., H] -> [..., D]
    decoder: Known  # [..., D] -> [..., V]
    row_wise: RowWise  # what `transform` is made of


def bert_head(model: Any) -> MlmHead:
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
