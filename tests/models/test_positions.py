# SPDX-License-Identifier: Apache-2.0
"""How long a row an encoder can read: what the rule says, and what a model of each type does."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("transformers")

import torch
from families_samples import family_config
from huggingface_hub.errors import StrictDataclassError
from tiny_models import forgotten  # noqa: F401
from torch import nn
from transformers import BertConfig, PreTrainedConfig, RobertaConfig, RobertaForMaskedLM, T5Config, XLMConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_MASKED_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from spanbert_ext.models.native_classes import register_family
from spanbert_ext.models.positions import most_positions

POSITIONS, PADDING = 16, 2
_SEQUENCES = {
    **{"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32},
    **{"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32},
}
_LAYERS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
_PICTURES = {"vision_config": _LAYERS | {"image_size": 32, "patch_size": 16}}
_TEXT = _LAYERS | {"vocab_size": 40, "max_position_embeddings": POSITIONS, "pad_token_id": PADDING}
_OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bart", "mbart", "mvp"), _SEQUENCES),
    "funnel": {"block_sizes": [1, 1], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 32},
    "luke": _LAYERS | {"entity_vocab_size": 10, "entity_emb_size": 32},
    "mobilebert": _LAYERS
    | {"hidden_size": 64, "embedding_size": 32, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "modernvbert": _PICTURES | {"text_config": _TEXT},
    "neomme": _LAYERS | {"num_key_value_heads": 1, "head_dim": 16, "embedding_rank": 16, "embedding_dim": 32},
    "perceiver": {
        **{"d_model": 32, "d_latents": 32, "num_latents": 4, "num_blocks": 1, "v_channels": 32},
        **{"num_self_attends_per_block": 1, "num_self_attention_heads": 2, "num_cross_attention_heads": 2},
        **{"qk_channels": 32},
    },
    "reformer": {
        **{"attn_layers": ["local"], "local_attn_chunk_length": 4, "attention_head_size": 16},
        **{"axial_pos_shape": [4, 4], "axial_pos_embds_dim": [16, 16], "feed_forward_size": 32},
        **{"hidden_size": 32, "num_attention_heads": 2, "is_decoder": False},
    },
    "ultravbert": _PICTURES | {"text_config": _TEXT},
    "xmod": _LAYERS | {"default_language": "en_XX"},
}
# Rotary positions, or (tapas) positions in a cell: a row may be longer than what the configuration states.
GO_ON = {
    *("esmc", "eurobert", "gte", "jina_embeddings_v3", "modernbert", "modernvbert", "neomme", "nomic_bert"),
    *("tapas", "ultrabert", "ultravbert"),
}


def small_config(model_type: str) -> PreTrainedConfig:
    positions = {"max_position_embeddings": POSITIONS, "pad_token_id": PADDING}
    if model_type == "funnel":
        return CONFIG_MAPPING[model_type](vocab_size=40, **_OWN[model_type])
    if model_type in _OWN:
        return CONFIG_MAPPING[model_type](vocab_size=40, **positions, **_OWN[model_type])
    return family_config(model_type, **positions)


def reads(model: nn.Module, length: int) -> bool:
    inputs = {"input_ids": torch.full((1, length), 7)}
    if model.config.model_type in (
        "jina_embeddings_v3",
        "nomic_bert",
    ):  # older ones make no more than are stated
        inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
    try:
        with torch.no_grad():
            model(**inputs)
    except (IndexError, RuntimeError, ValueError):
        return False
    return True


@pytest.mark.parametrize("model_type", sorted(MODEL_FOR_MASKED_LM_MAPPING_NAMES))
def test_the_rule_is_what_a_model_reads(model_type):
    try:
        config = small_config(model_type)
    except StrictDataclassError as error:  # transformers 5.6 refuses what its own code put there
        assert model_type == "modernvbert"
        pytest.skip(str(error))
    model = MODEL_FOR_MASKED_LM_MAPPING[type(config)](config).eval()
    most = most_positions(config)
    assert most_positions(model) == most
    if model_type == "funnel":  # of relative positions
        assert most is None and reads(model, 5 * POSITIONS)
        return
    # mpnet's padding has id 1 whatever is said
    assert most in (POSITIONS, POSITIONS - PADDING - 1, POSITIONS - 2)
    assert reads(model, most) and reads(model, most + 1) == (model_type in GO_ON)


def test_positions_of_a_configuration() -> None:
    assert most_positions(BertConfig(max_position_embeddings=512)) == 512
    assert most_positions(RobertaConfig(max_position_embeddings=514, pad_token_id=1)) == 512
    assert most_positions(XLMConfig(max_position_embeddings=300)) == 300


def test_a_configuration_without_a_limit() -> None:
    assert most_positions(T5Config()) is None  # relative positions


def test_the_configuration_stays_as_it_was() -> None:
    config = RobertaConfig(max_position_embeddings=20)
    before = config.to_dict()
    most_positions(config)
    assert config.to_dict() == before and config._attn_implementation is None


def test_a_configuration_that_makes_no_model_has_what_it_states() -> None:
    assert most_positions(BertConfig(hidden_size=33, num_attention_heads=2)) == 512


def test_a_registered_class_counts_as_it_does() -> None:
    class OwnConfig(RobertaConfig):
        model_type = "own-with-padding"

    class OwnModel(RobertaForMaskedLM):
        config_class = OwnConfig

    register_family(
        OwnModel, decoder="lm_head.decoder", transform=["lm_head.dense"], head="lm_head", exist_ok=True
    )
    assert most_positions(OwnConfig(max_position_embeddings=20, pad_token_id=3)) == 16
