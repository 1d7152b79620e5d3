# SPDX-License-Identifier: Apache-2.0
"""`vocab_ce` in plain PyTorch: all logits at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from spanbert_ext.reference.outputs import VocabCEOutput


def vocab_ce(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    row_weight: Tensor,
    *,
    first_rows: Sequence[int] = (0,),
    label_smoothing: float = 0.0,
) -> VocabCEOutput:
    """See `spanbert_ext.ops.vocab_ce`."""
    n, vocab = h.shape[0], weight.shape[0]
    assert targets.shape == row_weight.shape == (n,)
    assert bias is None or bias.shape == (len(first_rows), vocab)
    live = targets >= 0
    h = h.where(live[:, None], 0)  # what is in the other rows reaches no gradient
    ends = [*first_rows[1:], n]
    logits = torch.cat(
        [
            F.linear(h[first:end], weight, None if bias is None else bias[group])
            for group, (first, end) in enumerate(zip(first_rows, ends, strict=True))
        ]
    )  # [N, V]
    nll = F.cross_entropy(
        logits.to(row_weight.dtype),
        targets.where(live, -100),
        ignore_index=-100,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    prediction = logits.argmax(dim=1).where(live, -1)
    return VocabCEOutput((row_weight.where(live, 0) * nll).sum(), nll.detach(), prediction)
