# SPDX-License-Identifier: Apache-2.0
"""What Trainer does not pass on: its epochs to the collator, all counts to the model; one epoch for evaluation."""

from __future__ import annotations

import copy
import warnings
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from spanbert_ext.masking.checks import epoch_number, shown
from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.masking.trainer_frames import trainer_frame
from spanbert_ext.masking.update_items import count_update_items


class SpanMaskingCallback(TrainerCallback):
    """Sets a collator to the Trainer's epochs, fixes the epoch of every evaluation, and counts all heads' targets.

        Trainer(..., data_collator=collator, callbacks=[SpanMaskingCallback(collator)])

    No mask then depends on `num_workers`, persistent workers, ranks, `eval_on_start`, several evaluation datasets,
    `evaluate` or `predict` before, after or without `train`, or a resume in the middle of an epoch.

    Trainer has one collator for training and evaluation, and builds the loader of an evaluation before any event of
    it. So the collator itself has to be the one for evaluation, and training gets another. What happens to `collator`,
    and when:

    * the constructor of this callback changes nothing;
    * the end of `Trainer.__init__` sets `collator.epoch = evaluation_epoch`, in place of an epoch that was there. It
      stays so, since `evaluate` may be called at any time: from then on a direct call of the collator masks as an
      evaluation does, and so does another Trainer without this callback. `collator.training()` is a collator
      without the fixed epoch, and `collator.epoch = None` takes it away;
    * the beginning of training puts `collator.training()` into the training loader;
    * the beginning of every epoch calls `collator.set_epoch`, which only training reads.

    Trainer hands the model the number of MLM targets in all batches and processes of an update, `num_items_in_batch`.
    From the beginning of training on, every batch also has `num_sbo_items`, the number of SBO targets, and, where it
    has pairs, `num_nsp_items`, that of NSP targets, counted by the same method of Trainer. The gradient of an update is
    then that of one batch of all its rows, under gradient accumulation and on several processes; without them the SBO
    and the NSP are weighted by each batch's share of the MLM targets.

    Added by `trainer.add_callback`, which fires no event, the callback fixes the epoch of evaluation when training
    begins. An `evaluate` or `predict` before that has masks of its own, and warns; with persistent workers so have the
    later ones.

    Args:
        collator: the Trainer's `data_collator`.
        evaluation_epoch: the epoch of every evaluation, 0 <= evaluation_epoch < 2**32.

    Raises:
        TypeError: no such collator; an epoch that is no integer.
        ValueError: an epoch out of range; at the beginning of training, a training loader that does not collate with
            `collator`.
    """

    def __init__(self, collator: DataCollatorForSpanMasking, evaluation_epoch: int = 0) -> None:
        if not isinstance(collator, DataCollatorForSpanMasking):
            raise TypeError(f"collator is {shown(collator)}; expected a DataCollatorForSpanMasking")
        self.collator = collator
        self.evaluation_epoch = epoch_number(evaluation_epoch)
        self._coming_epoch = 0

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.collator.epoch = self.evaluation_epoch

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        # attributes of accelerate's loader are those of the inner loader for reading, but not for writing
        loader = getattr(train_dataloader, "base_dataloader", train_dataloader)
        loader.collate_fn = self._with_training_collator(loader.collate_fn)
        self.collator.epoch = self.evaluation_epoch
        self._coming_epoch = int(state.epoch or 0)  # a resumed run goes on in its epoch
        frame = trainer_frame()
        if frame is not None:
            count_update_items(frame.f_locals["self"])

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # not state.epoch: after an epoch that another callback cut short it lags behind
        self.collator.set_epoch(self._coming_epoch)
        self._coming_epoch += 1

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.collator.epoch is None:
            self.collator.epoch = self.evaluation_epoch
            warnings.warn(
                "SpanMaskingCallback came by add_callback, after this evaluation's collator was in use: its masks are "
                "not those of the next evaluation. Give it to Trainer(callbacks=[...])",
                stacklevel=2,
            )

    def _with_training_collator(self, collate: Any) -> Any:
        if collate is self.collator:
            return self.collator.training()
        if hasattr(collate, "data_collator"):  # the Trainer's wrapper that drops unused columns
            collate = copy.copy(collate)
            collate.data_collator = self._with_training_collator(collate.data_collator)
            return collate
        raise ValueError(
            "SpanMaskingCallback: the training loader does not use the collator that the callback was made "
            f"with, but a {type(collate).__name__}: give the callback Trainer's own data_collator"
        )
