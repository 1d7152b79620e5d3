# SPDX-License-Identifier: Apache-2.0
"""A masked language model of a user's, which no Auto class of transformers knows; its forwards take no **kwargs."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput


class OwnConfig(PreTrainedConfig):
    model_type = "own-encoder"

    def __init__(
        self, vocab_size: int = 38, hidden_size: int = 32, norm_eps: float = 3e-6, **options
    ) -> None:
        self.vocab_size, self.hidden_size, self.norm_eps = vocab_size, hidden_size, norm_eps
        super().__init__(**({"tie_word_embeddings": True} | options))


class OwnPreTrainedModel(PreTrainedModel):
    config_class = OwnConfig
    base_model_prefix = "encoder"

    def _init_weights(self, module: nn.Module) -> None:
        """Knows the classes of its own model alone."""
        if isinstance(module, OwnTransform):
            module.norm.reset_parameters()


class OwnEncoder(OwnPreTrainedModel):
    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.mix = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embed = value

    def forward(self, input_ids: Tensor) -> tuple[Tensor]:
        x = self.embed(input_ids)
        around = x.mean(1, keepdim=True).expand_as(x)
        return (x + torch.tanh(self.mix(torch.cat([x, around], dim=-1))),)


class OwnTransform(nn.Module):
    def __init__(self, config: OwnConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(F.silu(self.dense(x)))


class OwnHead(nn.Module):
    def __init__(self, config: OwnConfig) -> None:
        super().__init__()
        self.transform = OwnTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.transform(x))


class OwnForMaskedLM(OwnPreTrainedModel):
    _tied_weights_keys = {"head.decoder.weight": "encoder.embed.weight"}

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        self.encoder = OwnEncoder(config)
        self.head = OwnHead(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.head.decoder

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.head.decoder = value

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> MaskedLMOutput:
        logits = self.head(self.encoder(input_ids)[0])
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return MaskedLMOutput(loss=loss, logits=logits)


PATHS = {"head": "head", "transform": "head.transform", "decoder": "head.decoder"}
