# SPDX-License-Identifier: Apache-2.0
"""A classifier of the states where two spans start (Baldini Soares et al., ACL 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spanbert_ext.evaluate.tasks.form import EvaluationError


class StartsClassifier(nn.Module):
    """An encoder, and classes of the states of two tokens."""

    def __init__(self, encoder: nn.Module, classes: int, seed: int) -> None:
        """seed: of the weights that are not the encoder's."""
        super().__init__()
        self.encoder = encoder
        hidden = encoder.config.hidden_size
        torch.manual_seed(seed)
        self.dense = nn.Linear(2 * hidden, hidden)
        self.dropout = nn.Dropout(getattr(encoder.config, "hidden_dropout_prob", 0.1))
        self.classes = nn.Linear(hidden, classes)

    def forward(self, starts: Tensor, labels: Tensor | None = None, **row: Tensor) -> dict[str, Any]:
        """starts: places [B, 2] in the rows. Returns `logits` [B, C], and `loss` where there are labels [B]."""
        states = self.encoder(**row).last_hidden_state
        both = states.gather(1, starts[:, :, None].expand(-1, -1, states.shape[-1])).flatten(1)
        logits = self.classes(self.dropout(torch.tanh(self.dense(self.dropout(both)))))
        if labels is None:
            return {"logits": logits}
        return {"logits": logits, "loss": nn.functional.cross_entropy(logits.float(), labels)}


def give_ids(encoder: Any, ids: list[int], seed: int) -> None:
    """Gives the embeddings rows for ids that they do not have, drawn by `seed`: the same for encoders of one size."""
    wanted = max(ids) + 1
    if wanted <= encoder.get_input_embeddings().weight.shape[0]:
        return
    torch.manual_seed(seed)
    try:
        encoder.resize_token_embeddings(wanted, mean_resizing=False)
    except Exception as error:
        raise EvaluationError(
            f"the embeddings of a {type(encoder).__name__} take no markers: {error}"
        ) from error
