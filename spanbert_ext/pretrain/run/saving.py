# SPDX-License-Identifier: Apache-2.0
"""How a Trainer saves: beside, whole, on the disk, and only then in the place of what was there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from spanbert_ext.files.disk import DiskError, explained, make_anew, sync, sync_tree
from spanbert_ext.models.model_card import CARD
from spanbert_ext.pretrain.run.bad_loss import BadLossError
from spanbert_ext.pretrain.run.checkpoints import RESULT, UNFINISHED, checkpoint_name, publish, seal
from spanbert_ext.pretrain.run.sharding import all_finite

KEPT = 2  # checkpoints


class SavesAsAsked(TrainerCallback):
    """A resumed run saves as often as it is told to now. Trainer goes by the number in the checkpoint."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        state.save_steps = args.save_steps


class VerifiedSaving:
    """A Trainer (mixed in before it) whose checkpoints have a manifest and are in place only when they are whole. The
    two newest are kept. Weights that hold NaN or an infinity are not saved: `BadLossError`. `DiskError` names a disk
    that cannot take a checkpoint; those before it are untouched."""

    _staging: str | None = None

    def _get_output_dir(self, trial: Any) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step, root = self.state.global_step, Path(self.args.output_dir)
        staging, name = root / UNFINISHED, checkpoint_name(step)
        self._check_weights(step)
        with explained(f"the checkpoint of step {step}", root):
            if self.is_world_process_zero():
                make_anew(staging)
            self.accelerator.wait_for_everyone()
            self._staging = str(staging)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            self.accelerator.wait_for_everyone()  # each process has a file of its own in it
            if self.is_world_process_zero():
                (staging / name / CARD).unlink(missing_ok=True)  # who edits it would damage the checkpoint
                seal(staging / name)
                publish(staging / name, root / name, KEPT)
            self.accelerator.wait_for_everyone()

    def save_result(self, folder: Path, record: Callable[[list[str]], None]) -> None:
        """Puts the trained model with its tokenizer into `folder`, whole. Before, the first process calls `record` with
        the names of its files."""
        staging = folder / RESULT
        self._check_weights(self.state.global_step)
        with explained("the trained model", folder):
            if self.is_world_process_zero():
                make_anew(staging)
            self.accelerator.wait_for_everyone()
            self.save_model(str(staging))
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                (staging / CARD).unlink(missing_ok=True)  # the run writes one that has its losses
                sync_tree(staging)
                names = sorted(path.name for path in staging.iterdir())
                for name in names:
                    if (folder / name).is_dir():
                        raise DiskError(
                            f"{folder / name} is a folder where the trained model's file goes: move it away"
                        )
                record(names)
                for name in names:
                    os.replace(staging / name, folder / name)
                sync(folder)
                staging.rmdir()

    def restore(self, checkpoint: Path) -> None:
        """Weights, log history and sums of a checkpoint, without training."""
        if self.is_fsdp_enabled:  # which shards a model when its optimizer is made
            self.create_optimizer()
            self.model, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
            self.model_wrapped = self.model
        self.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        # the first process wrote it
        self.state.is_world_process_zero = self.is_world_process_zero()
        self.state.is_local_process_zero = self.is_local_process_zero()
        self._load_from_checkpoint(str(checkpoint))
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ExportableState):  # each has its sums in the state
                callback.on_train_begin(self.args, self.state, self.control)
        self.progress.take(self.accelerator)  # steps that were not logged

    def _check_weights(self, step: int) -> None:
        if not all_finite(self.model.parameters()):
            raise BadLossError(
                f"the weights after update {step} hold NaN or an infinity and are not saved: the learning rate may"
                " be too high"
            )

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Weights that are tied stand in a checkpoint once: that is no loss. Any other difference is one."""
        model: PreTrainedModel = self.model
        tied = set(getattr(model, "all_tied_weights_keys", None) or ()) | set(
            model._keys_to_ignore_on_save or ()
        )
        missing = sorted(set(load_result.missing_keys) - tied)
        if missing or load_result.unexpected_keys:
            raise ValueError(
                f"the checkpoint is not of this model: missing {missing}, unexpected {load_result.unexpected_keys}"
            )
        model.tie_weights()
