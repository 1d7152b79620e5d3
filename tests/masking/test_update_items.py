# SPDX-License-Identifier: Apache-2.0
"""The counts of an update where labels without a target are negative, but not the -100 that Trainer counts by."""

from __future__ import annotations

import pytest
import torch
from tiny_models import gradients, in_order, make_model, one_thread, tiny_texts, tiny_tokenizer  # noqa: F401
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from spanbert_ext import DataCollatorForSpanMasking, SpanMaskingCallback


class OtherPadding(DataCollatorForSpanMasking):
    """As collators of other projects: -1 where there is no target."""

    def __call__(self, examples, return_tensors=None):
        batch = super().__call__(examples, return_tensors)
        batch["labels"] = batch["labels"].masked_fill(batch["labels"] < 0, -1)
        return batch


class Gradients(TrainerCallback):
    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
        self.found.append(torch.cat([gradient.flatten() for gradient in gradients(model).values()]))


def update(folder, kind: type, batches: int) -> tuple[Tensor, float, list[tuple[int, int]]]:
    """The gradient and the loss of one update; in each of its forwards the count and the labels' least element."""
    tokenizer = tiny_tokenizer()
    collator, recorder, told = kind(tokenizer), Gradients(), []
    model = make_model().double()
    model.register_forward_pre_hook(
        lambda module, args, kwargs: told.append(
            (int(kwargs["num_items_in_batch"]), int(kwargs["labels"].min()))
        ),
        with_kwargs=True,
    )
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=8 // batches,
        gradient_accumulation_steps=batches,
        max_steps=1,
        learning_rate=0.0,
        max_grad_norm=0.0,
        optim="sgd",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
    )
    trainer = Trainer(
        model,
        arguments,
        data_collator=collator,
        train_dataset=[dict(tokenizer(text)) for text in tiny_texts(8)],
        callbacks=[recorder, SpanMaskingCallback(collator)],
    )
    loss = in_order(trainer).train().training_loss
    (gradient,) = recorder.found
    return gradient, loss, told


@pytest.mark.parametrize("batches", [1, 4])
def test_labels_of_minus_one_are_no_targets(tmp_path, batches):
    expected, loss, told = update(tmp_path, DataCollatorForSpanMasking, batches)
    found, found_loss, found_told = update(tmp_path, OtherPadding, batches)
    assert [least for _, least in told] == [-100] * batches
    assert [least for _, least in found_told] == [-1] * batches  # the batch is as its collator made it
    assert [count for count, _ in found_told] == [count for count, _ in told]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert found_loss == pytest.approx(loss, rel=1e-9)
