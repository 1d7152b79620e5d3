# SPDX-License-Identifier: Apache-2.0
"""Each head's logits of chosen tokens, for who looks at what a model predicts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from spanbert_ext.models.families import Family
from spanbert_ext.models.head_loss import find_heads, sbo_logits
from spanbert_ext.models.inputs import encode, encoder_mask
from spanbert_ext.models.next_sentence import sentence_logits


def head_logits(
    model: Any, inputs: dict[str, Tensor], tokens: Tensor, *indices: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The MLM head's logits [R, V] and, given indices, the span-boundary head's [B, K, V], of one forward pass.

    The model's masker takes no part. Logits of other tokens are made only where a module of the MLM head may not work
    on tokens one by one.

    Args:
        model: a `SpanBertForPreTraining`.
        inputs: input_ids [B, L], and token_type_ids and attention_mask where there are any; no position is padding.
        tokens: [R] int64, b*L + position.
        indices: none, or masked_positions, left_boundary, right_boundary, [B, K] each, as from the collator; logits of
            rows without a target mean nothing.
    """
    family: Family = model.family
    mask = encoder_mask(model.config, family, inputs.get("attention_mask"), True)
    encoded = encode(
        model, {name: x for name, x in (inputs | {"attention_mask": mask}).items() if x is not None}, {}
    )
    x = encoded[0]  # [B, L, H]
    heads = find_heads(model, with_sbo=bool(indices))
    if heads.mlm.nsp is not None:
        heads, _ = sentence_logits(heads, x, encoded.pooler_output)
    if heads.whole_mlm is None and heads.whole_transform is None:
        of_mlm = heads.mlm.whole(x.flatten(0, 1)[tokens][None])[0]
    else:
        of_mlm = heads.mlm.whole(x).flatten(0, 1)[tokens]
    impl = model.config.span_pretraining["impl"]
    return of_mlm, sbo_logits(heads, x, *indices, impl=impl) if indices else None
