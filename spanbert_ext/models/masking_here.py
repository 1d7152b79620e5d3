# SPDX-License-Identifier: Apache-2.0
"""Masks made in the model's forward, on the device of the text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spanbert_ext.masking.batching import explicit_kinds
from spanbert_ext.masking.masker import MaskedBatch, SpanMasker
from spanbert_ext.ops._common import integer, shown


class MaskingHere:
    """The part of a model class that masks what comes without labels."""

    masker: SpanMasker | None = None
    masking_seed = 0

    def set_masker(self: Any, masker: SpanMasker | None, seed: int = 0) -> None:
        """Masks in `forward` whatever comes without labels; None ends it.

        Raises:
            TypeError: `masker` is something else, as a collator; `seed` is no integer.
            ValueError: the masker's vocabulary, or its number of position slots, exceeds the model's.
        """
        if masker is not None and not isinstance(masker, SpanMasker):
            raise TypeError(f"masker is {shown(masker)}; expected a SpanMasker or None")
        seed = integer("seed", seed)
        if masker is not None:
            if masker.vocab_size > self.sbo.bias.shape[0]:
                raise ValueError(
                    f"the masker's tokenizer has {masker.vocab_size} ids, the model {len(self.sbo.bias)}: "
                    "call model.resize_token_embeddings(len(tokenizer)), or check that they belong together"
                )
            slots = self.config.span_pretraining["position_slots"]
            if masker.position_slots > slots:
                raise ValueError(
                    f"the masker uses {masker.position_slots} position slots, the model has {slots}"
                )
        self.masker = masker
        self.masking_seed = seed

    def mask_here(
        self: Any,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        sample_ids: Tensor | None,
        sample_epoch: Tensor | None,
        token_kinds: Tensor | None,
        special_tokens_mask: Tensor | None,
        candidates: Tensor | None,
    ) -> MaskedBatch:
        """Text [B, L] as `forward` gets it; shapes there."""
        table, _ = self.masker.tables_on(input_ids.device)  # [V]
        return self.masker(
            input_ids,
            attention_mask,
            seed=self.masking_seed,
            epoch=self._masking_epoch() if sample_epoch is None else sample_epoch,
            sample_ids=sample_ids,
            token_kinds=explicit_kinds(table, input_ids, token_kinds, special_tokens_mask),
            candidates=candidates,
        )

    def _masking_epoch(self: Any) -> Tensor:
        if not self.training:
            return torch.zeros_like(self.masking_step)
        step = self.masking_step.clone()
        self.masking_step.add_(1)  # on the device: nothing waits for it
        return step
