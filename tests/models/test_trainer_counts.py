# SPDX-License-Identifier: Apache-2.0
"""A plain Trainer with the callback: an update's gradient is that of one batch of all its rows."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_models import ended_workers, gradients, in_order, make_model, one_thread, tiny_texts, tiny_tokenizer  # noqa: F401
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from spanbert_ext import DataCollatorForSpanMasking, SpanMaskingCallback

WORDS = (1, 2, 2, 2, 1, 2, 12, 9)  # of an update's rows: spans of the short ones often lack a boundary


def ragged_rows(count: int) -> list[dict]:
    tokenizer = tiny_tokenizer()
    texts = [text.split()[: WORDS[index % 8]] for index, text in enumerate(tiny_texts(count, words=(16, 16)))]
    return [dict(tokenizer(" ".join(words))) for words in texts]


class Stream(IterableDataset):
    def __init__(self, rows: list[dict]) -> None:
        self.rows = rows

    def __iter__(self):
        yield from self.rows


class Gradients(TrainerCallback):
    """Those of every update, before the optimizer's step."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
        self.found.append(flat(model))


def flat(model) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients(model).values()])


def make_trainer(
    folder, data, exact: bool = True, grouped: bool = False, model=None, kind=Trainer, **options
) -> tuple[Trainer, list[Tensor]]:
    """Updates of 4 batches of 2 rows, in the rows' order; the weights stay as they are. Also the gradients to come."""
    collator = DataCollatorForSpanMasking(tiny_tokenizer(), epoch=None if exact else 0)
    recorder = Gradients()
    defaults = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 2, "save_strategy": "no"}
    trainer = kind(
        model or make_model().double(),
        TrainingArguments(
            str(folder),
            learning_rate=0.0,
            optim="sgd",
            max_grad_norm=0.0,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            **(defaults | options),
        ),
        data_collator=collator,
        train_dataset=data,
        eval_dataset=data,
        callbacks=[recorder, SpanMaskingCallback(collator)] if exact else [recorder],
    )
    return trainer if grouped else in_order(trainer), recorder.found


def train(*args, resume: str | None = None, **options) -> list[Tensor]:
    trainer, found = make_trainer(*args, **options)
    trainer.train(resume_from_checkpoint=resume)
    return found


def expected(rows: list[dict], epoch: int = 0) -> Tensor:
    """The gradient of one batch."""
    model = make_model().double()
    model(**DataCollatorForSpanMasking(tiny_tokenizer(), epoch=epoch)(rows)).loss.backward()
    return flat(model)


def error(found: Tensor, rows: list[dict], epoch: int = 0) -> float:
    wanted = expected(rows, epoch)
    return float((found - wanted).norm() / wanted.norm())


def test_without_a_count_the_gradient_is_off(tmp_path):
    """By the share of the MLM targets, which is all that Trainer itself tells: what the others are measured by."""
    rows = ragged_rows(8)
    (shared,) = train(tmp_path, rows, exact=False, max_steps=1)
    assert 0.3 < error(shared, rows) < 0.5


BY_LENGTH = {"train_sampling_strategy": "group_by_length"}
if not hasattr(TrainingArguments, "train_sampling_strategy"):
    BY_LENGTH = {"group_by_length": True}
CASES = {
    "four batches of two": (16, {}),
    "a remainder": (29, {}),
    "a remainder that is dropped": (29, {"dataloader_drop_last": True}),
    "one batch": (16, {"gradient_accumulation_steps": 1, "per_device_train_batch_size": 8}),
    "two workers": (29, {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}),
    "rows grouped by length": (8, {"grouped": True} | BY_LENGTH),
    "unused columns kept": (16, {"remove_unused_columns": False}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_update_is_one_batch(tmp_path, case, ended_workers):  # noqa: F811
    count, options = CASES[case]
    rows = ragged_rows(count)
    found = train(tmp_path, rows, num_train_epochs=2, **options)
    kept = count // 2 * 2 if "dataloader_drop_last" in options else count
    updates = [rows[first : min(first + 8, kept)] for first in range(0, kept, 8)]
    assert len(found) == 2 * len(updates)
    for index, gradient in enumerate(found):
        epoch, update = divmod(index, len(updates))
        assert error(gradient, updates[update], epoch) < 1e-10, index


def test_a_stream(tmp_path):
    rows = ragged_rows(24)
    found = train(tmp_path, Stream(rows), max_steps=3)
    assert len(found) == 3
    for update, gradient in enumerate(found):
        assert error(gradient, rows[8 * update : 8 * update + 8]) < 1e-10, update


def test_a_run_resumed_within_an_epoch(tmp_path):
    """Trainer then makes a loader of its own for the rest of the epoch."""
    rows = ragged_rows(29)
    options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}
    train(tmp_path, rows, **options)
    found = train(tmp_path, rows, resume=str(tmp_path / "checkpoint-2"), **options)
    assert len(found) == 6
    for index, gradient in enumerate(found):
        epoch, update = divmod(index + 2, 4)
        assert error(gradient, rows[8 * update : 8 * update + 8], epoch) < 1e-10, index


def test_a_batch_size_that_is_found(tmp_path):
    """Trainer begins anew with smaller batches when memory runs out."""
    rows = ragged_rows(8)
    trainer, found = make_trainer(
        tmp_path, rows, auto_find_batch_size=True, per_device_train_batch_size=4, max_steps=1
    )

    def small_memory(model, args, kwargs) -> None:
        if len(kwargs["labels"]) > 2:
            raise RuntimeError("CUDA out of memory.")

    trainer.model.register_forward_pre_hook(small_memory, with_kwargs=True)
    trainer.train()
    assert len(found) == 1 and error(found[0], rows) < 1e-10


@pytest.mark.filterwarnings("ignore::UserWarning")  # a module with adapters is called
def test_adapters(tmp_path):
    def adapted() -> PeftModel:
        options = LoraConfig(target_modules=["query"], modules_to_save=["sbo"], init_lora_weights=False)
        return get_peft_model(make_model().double(), options).double()

    rows = ragged_rows(8)
    trainer, found = make_trainer(tmp_path, rows, model=adapted(), max_steps=1)
    trainer.train()
    model = adapted()
    model(**DataCollatorForSpanMasking(tiny_tokenizer(), epoch=0)(rows)).loss.backward()
    torch.testing.assert_close(found[0], flat(model), rtol=1e-10, atol=1e-12)


def test_evaluation_counts_its_own(tmp_path):
    rows = ragged_rows(13)
    trainer, _ = make_trainer(tmp_path, rows, max_steps=1)
    seen = {True: [], False: []}
    trainer.model.register_forward_pre_hook(
        lambda model, args, kwargs: seen[model.training].append("num_sbo_items" in kwargs), with_kwargs=True
    )
    trainer.train()
    trainer.evaluate()
    assert seen == {True: [True] * 4, False: [False] * 2}


def test_a_second_training_counts_once(tmp_path):
    rows = ragged_rows(8)
    trainer, found = make_trainer(tmp_path, rows, max_steps=1)
    calls = []
    count = trainer._get_num_items_in_batch
    trainer._get_num_items_in_batch = lambda *args: calls.append(1) or count(*args)
    trainer.train()
    trainer.train()
    # Trainer's count of the labels, the one in its place, the boundaries; twice
    assert len(calls) == 6 and torch.equal(found[0], found[1])


def test_a_trainer_that_counts_otherwise_is_told(tmp_path, monkeypatch):
    rows = ragged_rows(8)
    trainer, found = make_trainer(tmp_path, rows, max_steps=1)
    count = trainer._get_num_items_in_batch
    monkeypatch.delattr(Trainer, "_get_num_items_in_batch")

    def get_batch_samples(iterator, number, device):
        batches = [next(iterator) for _ in range(number)]
        return batches, count(batches, device)

    trainer.get_batch_samples = get_batch_samples
    with pytest.warns(UserWarning, match="counts labels in a way that is not known"):
        trainer.train()
    assert 0.3 < error(found[0], rows) < 0.5


class OwnLoss(Trainer):
    """As people write it: it passes no count on."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def test_a_loss_of_ones_own_that_passes_no_count(tmp_path):
    rows = ragged_rows(8)
    (counted,) = train(tmp_path, rows, kind=OwnLoss, max_steps=1)
    (plain,) = train(tmp_path, rows, kind=OwnLoss, exact=False, max_steps=1)
    torch.testing.assert_close(counted, plain, rtol=1e-10, atol=1e-12)
