"""How long a row an encoder can read, of configurations that count their positions in two ways."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from transformers import BertConfig, MPNetConfig, RobertaConfig, T5Config, XLMConfig

from spanbert_ext.models.positions import most_positions


def test_positions_of_a_configuration() -> None:
    assert most_positions(BertConfig(max_position_embeddings=512)) == 512
    assert most_positions(RobertaConfig(max_position_embeddings=514, pad_token_id=1)) == 512
    assert most_positions(MPNetConfig(max_position_embeddings=514, pad_token_id=1)) == 512
    assert most_positions(XLMConfig(max_position_embeddings=300)) == 300


def test_a_configuration_without_a_limit() -> None:
    assert most_positions(T5Config()) is None  # relative positions
