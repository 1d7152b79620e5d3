# SPDX-License-Identifier: Apache-2.0
"""What the heads, the last layer and the masks know of each encoder family: a row of FAMILIES a model type.

Nothing of a family is imported before a model of its type is built: `mlm_head` gets the native class then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from spanbert_ext.models.last_layers import (
    LayerShape,
    albert_last_layer,
    bert_last_layer,
    deberta_last_layer,
    distilbert_last_layer,
    eurobert_last_layer,
    fnet_last_layer,
    jina_last_layer,
    megatron_bert_last_layer,
    modernbert_last_layer,
    mpnet_last_layer,
    nomic_bert_last_layer,
    padded_last_layer,
    roberta_prelayernorm_last_layer,
    xlm_roberta_xl_last_layer,
)
from spanbert_ext.models.mlm_heads import (
    HeadShape,
    albert_head,
    bert_head,
    bert_nsp_head,
    distilbert_head,
    electra_head,
    eurobert_head,
    modernbert_head,
    rembert_head,
    roberta_head,
    xlm_head,
)


class Family(NamedTuple):
    """One row.

    Attributes:
        mlm_head: where a native class keeps its MLM head.
        last_layer: what lies behind the last attention of a native class's models; None: all rows are computed.
        eps: of the SBO's LayerNorms: an attribute of the configuration, or the number.
        ready_mask: under sdpa the encoder takes a bool mask `[B, 1, L, L]` for what it would make of `[B, L]`.
        ones_are_none: no attention_mask means the same as one of ones.
        nsp_head: where transformers' pre-training class of the type keeps both heads; None: it has no NSP head.
        refuse: why a configuration of the type is not supported, and what to do; None where it is.
        native_class: of a registered family; None: the one of AutoModelForMaskedLM.
        registered: by a user, whose word for the head is compared with the model once.
    """

    mlm_head: Callable[[type], HeadShape]
    last_layer: Callable[[type], LayerShape | None]
    eps: str | float = "layer_norm_eps"
    ready_mask: bool = False
    ones_are_none: bool = True
    nsp_head: Callable[[type], HeadShape] | None = None
    refuse: Callable[[Any], str | None] | None = None
    native_class: type | None = None
    registered: bool = False


def all_rows(native: type) -> None:
    """The last layer of a family whose layers are not known."""


def _refuse_new_deberta(config: Any) -> str | None:
    if getattr(config, "legacy", True):
        return None
    return (
        "with legacy=False its logits come from the embedding matrix, while get_output_embeddings() is a Linear of the "
        "head: set config.legacy = True, whose head is BERT's (an encoder loads into either)"
    )


def _refuse_adaptive_softmax(config: Any) -> str | None:
    if not getattr(config, "asm", False):
        return None
    return "with asm=True it has an adaptive softmax in the place of a decoder matrix: set config.asm = False"


_deberta_head = partial(bert_head, prefix="Legacy")
_nomic_head = partial(bert_head, norm="layer_norm")

FAMILIES: dict[str, Family] = {
    "albert": Family(albert_head, albert_last_layer, ready_mask=True),
    "bert": Family(bert_head, bert_last_layer, ready_mask=True, nsp_head=bert_nsp_head),
    "big_bird": Family(bert_head, padded_last_layer, nsp_head=bert_nsp_head),
    "camembert": Family(roberta_head, bert_last_layer, ready_mask=True),
    "convbert": Family(electra_head, bert_last_layer),
    "data2vec-text": Family(roberta_head, bert_last_layer, ready_mask=True),
    "deberta": Family(_deberta_head, deberta_last_layer, refuse=_refuse_new_deberta),
    "deberta-v2": Family(_deberta_head, deberta_last_layer, refuse=_refuse_new_deberta),
    "distilbert": Family(distilbert_head, distilbert_last_layer, eps=1e-12, ready_mask=True),
    "electra": Family(electra_head, bert_last_layer, ready_mask=True),
    "ernie": Family(bert_head, bert_last_layer, ready_mask=True, nsp_head=bert_nsp_head),
    "eurobert": Family(eurobert_head, eurobert_last_layer, eps="rms_norm_eps", ready_mask=True),
    "flaubert": Family(xlm_head, all_rows, ones_are_none=False, refuse=_refuse_adaptive_softmax),
    "fnet": Family(bert_head, fnet_last_layer, nsp_head=bert_nsp_head),
    "gte": Family(roberta_head, nomic_bert_last_layer, ready_mask=True),
    "ibert": Family(roberta_head, all_rows),
    "jina_embeddings_v3": Family(roberta_head, jina_last_layer, ready_mask=True),
    "layoutlm": Family(bert_head, bert_last_layer),
    "longformer": Family(roberta_head, padded_last_layer),
    "megatron-bert": Family(bert_head, megatron_bert_last_layer, nsp_head=bert_nsp_head),
    "modernbert": Family(modernbert_head, modernbert_last_layer, eps="norm_eps"),
    "mpnet": Family(roberta_head, mpnet_last_layer),
    "mra": Family(bert_head, bert_last_layer),
    "nomic_bert": Family(_nomic_head, nomic_bert_last_layer, ready_mask=True),
    "nystromformer": Family(bert_head, bert_last_layer),
    "rembert": Family(rembert_head, bert_last_layer),
    "roberta": Family(roberta_head, bert_last_layer, ready_mask=True),
    "roberta-prelayernorm": Family(roberta_head, roberta_prelayernorm_last_layer, ready_mask=True),
    "roc_bert": Family(bert_head, bert_last_layer, ready_mask=True),
    "roformer": Family(bert_head, bert_last_layer),
    "squeezebert": Family(bert_head, all_rows),
    "xlm": Family(xlm_head, all_rows, ones_are_none=False, refuse=_refuse_adaptive_softmax),
    "xlm-roberta": Family(roberta_head, bert_last_layer, ready_mask=True),
    "xlm-roberta-xl": Family(roberta_head, xlm_roberta_xl_last_layer, ready_mask=True),
    "yoso": Family(bert_head, bert_last_layer),
}

# Masked language models of transformers whose head no row could describe.
REFUSED = {
    "esm": "the bias of its logits is not the decoder's but lm_head.bias",
    "mobilebert": "its decoder matrix is put together from two in every call",
    "ultrabert": "its model.decoder is no decoder but an Identity",
}
