"""What transformers' Trainer does not tell a collator: the epoch, and whether it is training."""

from __future__ import annotations

import copy
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from spanbert_ext.masking.collator import DataCollatorForSpanMasking


class SpanMaskingCallback(TrainerCallback):
    """Gives a `DataCollatorForSpanMasking` the Trainer's epochs, and fixes the epoch of every evaluation.

        Trainer(..., data_collator=collator, callbacks=[SpanMaskingCallback(collator)])

    Trainer uses one collator for training and evaluation and never tells it which. So `collator` itself
    becomes the one for evaluation (`collator.epoch = evaluation_epoch`), and when training begins the
    training loader is given `collator.training()`, whose epoch is set at the start of every epoch. Each
    loader, and each worker of it, then keeps its own rule: no mask depends on `num_workers`, persistent
    workers, `eval_on_start`, several evaluation datasets, `predict` or a resume in the middle of an epoch.

    Raises:
        ValueError: at the start of training, when the training loader does not collate with `collator`.
    """

    def __init__(self, collator: DataCollatorForSpanMasking, evaluation_epoch: int = 0) -> None:
        self.collator = collator
        self.collator.epoch = evaluation_epoch
        self._next_epoch = 0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        self._next_epoch = int(state.epoch or 0)  # a resumed run goes on in its epoch
        # accelerate's loader hands attributes through to the one inside, but only for reading
        loader = getattr(train_dataloader, "base_dataloader", train_dataloader)
        loader.collate_fn = self._with_training_collator(loader.collate_fn)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # not state.epoch: after an epoch that another callback cut short it lags behind
        self.collator.set_epoch(self._next_epoch)
        self._next_epoch += 1

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
