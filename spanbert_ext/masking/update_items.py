# SPDX-License-Identifier: Apache-2.0
"""The other heads' targets of a whole update, counted where Trainer counts its labels."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor
from transformers import Trainer

# What the model's forward is told, and the tensor of a batch whose elements from 0 on are such targets.
COUNTED = {"num_sbo_items": "left_boundary", "num_nsp_items": "is_random_next"}


class CountingBatches:
    """A Trainer's `get_batch_samples` whose batches also have `num_sbo_items` and `num_nsp_items`.

    Trainer draws the batches of an update before its first forward, counts their labels over all processes and hands
    the model that number, `num_items_in_batch`. This counts the targets of the span-boundary objective and of the
    next-sentence prediction in the same batches by the same method of Trainer, so that every option of it means the
    same for all the numbers. The labels are counted anew: Trainer counts what is not -100, the model what is not
    negative. The numbers stay on the device, and the batches' tensors as they are.

    Batches without boundaries, or without pairs, or of a Trainer that makes no count, pass as they are.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.method = trainer.get_batch_samples

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        batches, num_items = self.method(*args, **kwargs)
        if self.trainer.model_accepts_loss_kwargs and num_items is not None:
            labels = self._count(batches, "labels")
            num_items = num_items if labels is None else labels
            for count, name in COUNTED.items():
                items = self._count(batches, name)
                if items is not None:
                    for batch in batches:
                        batch[count] = items
        return batches, num_items

    def _count(self, batches: list[Any], name: str) -> Any:
        """How many elements from 0 on the batches' tensors of one name have; None: a batch has no such tensor."""
        targets = [batch[name] for batch in batches if name in batch]  # each [B, L], [B, K] or [B]
        if len(targets) < len(batches) or not all(isinstance(x, Tensor) for x in targets):
            return None
        # Trainer counts what is not -100 among the labels.
        labels = [{"labels": x.masked_fill(x < 0, -100)} for x in targets]
        return self.trainer._get_num_items_in_batch(labels, self.trainer.args.device)


def count_update_items(trainer: Trainer) -> None:
    """Lets every update of `trainer` know its targets of all heads; a second call changes nothing."""
    if isinstance(trainer.get_batch_samples, CountingBatches):
        return
    if not hasattr(trainer, "_get_num_items_in_batch"):
        warnings.warn(
            "this version of transformers counts labels in a way that is not known here: under gradient accumulation "
            "the span-boundary and next-sentence losses are scaled by each batch's share of the masked tokens, as "
            "without a count",
            stacklevel=2,
        )
        return
    trainer.get_batch_samples = CountingBatches(trainer)
