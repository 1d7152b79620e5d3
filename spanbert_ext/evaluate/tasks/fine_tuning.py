# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning by transformers' Trainer, and predictions: what the tasks share."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from spanbert_ext.evaluate.tasks.batches import prediction_batches, training_batches
from spanbert_ext.evaluate.tasks.form import Conditions, EvaluationError
from spanbert_ext.evaluate.tasks.options import TrainingOptions

Row = Mapping[str, Any]  # `input_ids` and what else the model reads
Batch = dict[str, torch.Tensor]
Collate = Callable[[list[Row]], Batch]

TRAINING_SHARE = 0.9  # of a job's progress bar
_LOGS = 20  # of the loss, in facts
_PREDICTED_TOKENS = {"cpu": 4096, "cuda": 65_536}  # of a batch


def pad(rows: Sequence[Sequence[int]], value: int, multiple: int = 8) -> torch.Tensor:
    """[B, L] of lists of integers, padded on the right; L is a multiple, which GPUs and vector units prefer."""
    width = math.ceil(max(map(len, rows)) / multiple) * multiple
    padded = torch.full((len(rows), width), value, dtype=torch.long)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = torch.as_tensor(row, dtype=torch.long)
    return padded


def collate_tokens(rows: Sequence[Row], pad_token_id: int, longest: int) -> Batch:
    """`input_ids`, `attention_mask` and, where the rows have them, `token_type_ids` [B, L], L at most `longest`."""
    batch = {
        "input_ids": pad([row["input_ids"] for row in rows], pad_token_id)[:, :longest],
        "attention_mask": pad([[1] * len(row["input_ids"]) for row in rows], 0)[:, :longest],
    }
    if "token_type_ids" in rows[0]:
        batch["token_type_ids"] = pad([row["token_type_ids"] for row in rows], 0)[:, :longest]
    return batch


def parameter_groups(
    model: nn.Module, weight_decay: float, rates: Sequence[tuple[str, float]]
) -> list[dict[str, Any]]:
    """Groups for an optimizer. rates: (prefix of parameter names, learning rate), of which the first that fits counts;
    "" fits all. Vectors (biases, norms) have no weight decay."""
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = next(rate for prefix, rate in rates if name.startswith(prefix))
            decay = weight_decay if parameter.ndim > 1 else 0.0
            group = groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
            group["params"].append(parameter)
    return list(groups.values())


def fine_tune(
    model: nn.Module,
    rows: Sequence[Row],
    collate: Collate,
    options: TrainingOptions,
    conditions: Conditions,
    *,
    rates: Sequence[tuple[str, float]],
    epochs: float | None = None,
    lengths: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Trains `model`, whose output of a collated batch has a `loss`, in place. Its facts: updates, rows, seconds, the
    course of the loss, the peak rates, and `diverged` where the loss at the end is no finite number. A loss that is no
    number ends the training: it has made all weights none, and no update makes them numbers again. Raises
    `EvaluationError` where there are no rows.

    rates: see `parameter_groups`. epochs: in the place of the options'. lengths: of the rows, by which they are put
    together; those of their `input_ids` where they are not given. Rows are ordered by `conditions.seed` alone,
    and dropout draws from it."""
    if not rows:
        raise EvaluationError("the tokenizer makes no token of anything that is to be trained on")
    epochs = options.epochs if epochs is None else epochs
    lengths = _lengths(rows) if lengths is None else lengths
    batches = training_batches(lengths, options.batch_size, epochs, conditions.seed)
    optimizer = torch.optim.AdamW(parameter_groups(model, options.weight_decay, rates))
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:  # Trainer wants one; nothing is saved
        trainer = _Trainer(
            model=model,
            args=_arguments(folder, options, conditions, len(batches)),
            data_collator=collate,
            train_dataset=[[rows[index] for index in batch] for batch in batches],
            optimizers=(optimizer, None),
            callbacks=[_Course(conditions)],
        )
        for callback in (ProgressCallback, PrinterCallback):
            trainer.remove_callback(callback)
        trainer.train()
    losses = [(log["step"], log["loss"]) for log in trainer.state.log_history if "loss" in log]
    facts = {
        "updates": trainer.state.global_step,
        "training_rows": len(rows),
        "learning_rates": dict(rates),
        "training_seconds": round(time.perf_counter() - begun, 3),
        "losses": losses,
    }
    if not math.isfinite(losses[-1][1]):
        facts["diverged"] = True
    return facts


@torch.inference_mode()
def predict(
    model: nn.Module,
    rows: Sequence[Row],
    collate: Collate,
    conditions: Conditions,
    *,
    lengths: Sequence[int] | None = None,
    most_tokens: int | None = None,
) -> Iterator[tuple[list[int], Batch, Any]]:
    """For batches that hold every row once: the rows' indices, the batch on the device, and the model's output.

    lengths: as in `fine_tune`. most_tokens: of a batch with its padding; of 0 every row is a batch of its own."""
    device = torch.device(conditions.device)
    model.to(device).eval()
    most_tokens = _PREDICTED_TOKENS[device.type] if most_tokens is None else most_tokens
    batches = prediction_batches(_lengths(rows) if lengths is None else lengths, most_tokens)
    done = 0
    for indices in batches:
        batch = {
            name: value.to(device, non_blocking=True)
            for name, value in collate([rows[index] for index in indices]).items()
        }
        with torch.autocast(device.type, torch.bfloat16, enabled=conditions.bf16):
            output = model(**batch)
        yield indices, batch, output
        done += len(indices)
        conditions.progress(TRAINING_SHARE + (1 - TRAINING_SHARE) * done / len(rows))


def _lengths(rows: Sequence[Row]) -> list[int]:
    return [len(row["input_ids"]) for row in rows]


def _arguments(
    folder: str, options: TrainingOptions, conditions: Conditions, steps: int
) -> TrainingArguments:
    on_cpu = conditions.device == "cpu"
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=1,  # an element of the data set is a batch
        lr_scheduler_type="linear",
        warmup_steps=round(options.warmup_ratio * steps),
        max_grad_norm=options.max_grad_norm,
        bf16=conditions.bf16,
        use_cpu=on_cpu,
        seed=conditions.seed,
        logging_steps=max(1, steps // _LOGS),
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # DataParallel would divide every batch among all GPUs of the machine
    return arguments


class _Trainer(Trainer):
    """Reads the batches that it is given, in their order."""

    def get_train_dataloader(self) -> DataLoader:
        loader = DataLoader(
            self.train_dataset,
            batch_size=1,
            collate_fn=lambda batches: self.data_collator(batches[0]),
            pin_memory=self.args.device.type == "cuda",
        )
        return self.accelerator.prepare(loader)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        output = model(**inputs)
        return (output["loss"], output) if return_outputs else output["loss"]


class _Course(TrainerCallback):
    """Tells how far a training is, has its last losses logged too, and ends one that has diverged."""

    def __init__(self, conditions: Conditions) -> None:
        self.conditions = conditions

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.conditions.progress(TRAINING_SHARE * state.global_step / state.max_steps)
        control.should_log |= state.global_step == state.max_steps

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_training_stop |= math.isnan(state.log_history[-1].get("loss", 0.0))
