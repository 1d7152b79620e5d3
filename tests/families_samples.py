# SPDX-License-Identifier: Apache-2.0
"""A configuration of 2 x 32 for each encoder family of transformers."""

from __future__ import annotations

from typing import Any

from tiny_models import VOCABULARY
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 80,
}
_XLM = {
    **{"emb_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 80},
    **{"dropout": 0.0, "attention_dropout": 0.0, "use_lang_emb": False, "pad_index": 0},
}
_OWN: dict[str, dict[str, Any]] = {
    "albert": _SIZES | {"embedding_size": 24, "num_hidden_groups": 1},
    "big_bird": _SIZES | {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1},
    "convbert": _SIZES | {"embedding_size": 24, "head_ratio": 2, "num_attention_heads": 4},
    "deberta": _SIZES | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": _SIZES
    | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "conv_kernel_size": 3, "conv_act": "gelu"},
    "distilbert": {
        **{"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 80},
        **{"dropout": 0.0, "attention_dropout": 0.0},
    },
    "electra": _SIZES | {"embedding_size": 24},
    "eurobert": _SIZES | {"attention_dropout": 0.0, "num_key_value_heads": 2},
    "flaubert": _XLM,
    "longformer": _SIZES | {"attention_window": 8},
    "modernbert": _SIZES
    | {
        **{"attention_dropout": 0.0, "mlp_dropout": 0.0, "embedding_dropout": 0.0, "local_attention": 8},
        **{"num_hidden_layers": 3, "global_attn_every_n_layers": 3},
    },
    "rembert": _SIZES
    | {"input_embedding_size": 24, "output_embedding_size": 40, "classifier_dropout_prob": 0.0},
    "roc_bert": _SIZES | {"pronunciation_vocab_size": 40, "shape_vocab_size": 40},
    "roformer": _SIZES | {"embedding_size": 24},
    "squeezebert": _SIZES | {"embedding_size": 32, "q_groups": 1, "k_groups": 1, "v_groups": 1},
    "xlm": _XLM,
}
# <pad> is 0 in the tests' vocabulary, and these count positions from behind the padding's id.
_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}


def family_config(model_type: str, **options: Any) -> PreTrainedConfig:
    sizes = _OWN.get(model_type, _SIZES)
    return CONFIG_MAPPING[model_type](vocab_size=len(VOCABULARY), **(_IDS | sizes | options))
