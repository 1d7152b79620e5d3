# SPDX-License-Identifier: Apache-2.0
"""SpanMaskingCallback in a Trainer: what it changes and when, and the epoch of every evaluation."""

from __future__ import annotations

import warnings

import pytest
import torch
from tiny_models import ended_workers, make_model, one_thread, tiny_texts, tiny_tokenizer  # noqa: F401
from transformers import Trainer, TrainingArguments

from spanbert_ext import DataCollatorForSpanMasking, SpanMaskingCallback

Ids = tuple[int, ...]


def rows_of(count: int, seed: int = 0) -> list[dict]:
    tokenizer = tiny_tokenizer()
    return [dict(tokenizer(text)) for text in tiny_texts(count, seed, words=(20, 40))]


HELD_OUT = rows_of(6, seed=9)


def masked_rows(batch: dict) -> list[Ids]:
    """What stands in each row after masking, without its padding."""
    pairs = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    return [tuple(ids[attention.bool()].tolist()) for ids, attention in pairs]


def masks(rows: list[dict], epoch: int) -> list[Ids]:
    return masked_rows(DataCollatorForSpanMasking(tiny_tokenizer(), epoch=epoch)(rows))


def make_trainer(folder, collator, callbacks=(), **options) -> Trainer:
    """The Trainer's model notes the rows that it reads, in `seen`: by whether it is training."""
    model = make_model()
    model.seen = {True: [], False: []}
    model.register_forward_pre_hook(
        lambda module, args, kwargs: module.seen[module.training].extend(masked_rows(kwargs)),
        with_kwargs=True,
    )
    options = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "save_strategy": "no"} | options
    arguments = TrainingArguments(
        str(folder),
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        per_device_eval_batch_size=4,
        **options,
    )
    return Trainer(
        model,
        arguments,
        data_collator=collator,
        train_dataset=rows_of(8),
        eval_dataset=HELD_OUT,
        callbacks=list(callbacks),
    )


def evaluated(trainer: Trainer) -> list[Ids]:
    """The rows of one `evaluate`."""
    trainer.model.seen[False].clear()
    trainer.evaluate()
    return list(trainer.model.seen[False])


class TestCollator:
    """What happens to the collator, and when."""

    def test_the_constructor_changes_nothing(self):
        collator = DataCollatorForSpanMasking(tiny_tokenizer())
        twin = DataCollatorForSpanMasking(tiny_tokenizer())
        before = dict(vars(collator))
        SpanMaskingCallback(collator, evaluation_epoch=3)
        assert vars(collator) == before and collator.epoch is None and collator._shared_epoch == -1
        torch.manual_seed(1)
        four = [tuple(masked_rows(collator(HELD_OUT))) for _ in range(4)]
        torch.manual_seed(1)
        assert four == [tuple(masked_rows(twin(HELD_OUT))) for _ in range(4)] and len(set(four)) == 4

    @pytest.mark.parametrize("own_epoch", [None, 5])
    def test_trainers_constructor_makes_it_the_evaluations(self, tmp_path, own_epoch):
        collator = DataCollatorForSpanMasking(tiny_tokenizer(), epoch=own_epoch)
        make_trainer(tmp_path, collator, [SpanMaskingCallback(collator, evaluation_epoch=3)])
        assert masked_rows(collator(HELD_OUT)) == masks(HELD_OUT, 3)
        free = collator.training()
        assert masked_rows(free(HELD_OUT)) != masked_rows(free(HELD_OUT))

    def test_training_leaves_it_the_evaluations(self, tmp_path):
        collator = DataCollatorForSpanMasking(tiny_tokenizer())
        make_trainer(tmp_path, collator, [SpanMaskingCallback(collator)]).train()
        assert masked_rows(collator(HELD_OUT)) == masks(HELD_OUT, 0)
        assert masked_rows(collator.training()(HELD_OUT)) == masks(HELD_OUT, 1)  # the last epoch that was set

    def test_bad_arguments(self):
        collator = DataCollatorForSpanMasking(tiny_tokenizer())
        with pytest.raises(TypeError, match="collator is a .*; expected a DataCollatorForSpanMasking"):
            SpanMaskingCallback(tiny_tokenizer())
        with pytest.raises(TypeError, match=r"epoch is 1\.5 \(float\); expected an integer"):
            SpanMaskingCallback(collator, 1.5)
        with pytest.raises(ValueError, match="epoch must be in .* not -1"):
            SpanMaskingCallback(collator, -1)


class TestEvaluation:
    @pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
    def test_every_evaluation_has_the_one_epoch(self, tmp_path, workers, persistent, ended_workers):  # noqa: F811
        """Before training, without it, and after it; `predict` too."""
        collator = DataCollatorForSpanMasking(tiny_tokenizer())
        trainer = make_trainer(
            tmp_path,
            collator,
            [SpanMaskingCallback(collator, evaluation_epoch=3)],
            dataloader_num_workers=workers,
            dataloader_persistent_workers=persistent,
        )
        expected = masks(HELD_OUT[:4], 3) + masks(HELD_OUT[4:], 3)
        assert evaluated(trainer) == evaluated(trainer) == expected
        trainer.model.seen[False].clear()
        trainer.predict(HELD_OUT)
        assert trainer.model.seen[False] == expected
        trainer.train()
        assert evaluated(trainer) == expected

    def test_a_second_training_begins_with_epoch_0_again(self, tmp_path):
        collator = DataCollatorForSpanMasking(tiny_tokenizer())
        trainer = make_trainer(tmp_path, collator, [SpanMaskingCallback(collator)])
        for _ in range(2):
            trainer.model.seen[True].clear()
            trainer.train()
            seen = trainer.model.seen[True]
            for epoch in range(2):
                assert sorted(seen[8 * epoch : 8 * (epoch + 1)]) == sorted(masks(rows_of(8), epoch))

    def test_evaluation_after_every_epoch_does_not_move_the_training(self, tmp_path):
        collator = DataCollatorForSpanMasking(tiny_tokenizer())
        trainer = make_trainer(
            tmp_path, collator, [SpanMaskingCallback(collator)], eval_strategy="epoch", eval_on_start=True
        )
        trainer.train()
        assert trainer.model.seen[False] == 3 * (masks(HELD_OUT[:4], 0) + masks(HELD_OUT[4:], 0))
        for epoch in range(2):
            seen = trainer.model.seen[True][8 * epoch : 8 * (epoch + 1)]
            assert sorted(seen) == sorted(masks(rows_of(8), epoch))


class TestAddedLater:
    """`trainer.add_callback`, which fires no event."""

    def test_from_the_beginning_of_training_on_evaluations_agree(self, tmp_path):
        collator = DataCollatorForSpanMasking(tiny_tokenizer())
        trainer = make_trainer(tmp_path, collator, eval_on_start=True, eval_strategy="epoch")
        trainer.add_callback(SpanMaskingCallback(collator))
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="SpanMaskingCallback")
            trainer.train()
        expected = masks(HELD_OUT[:4], 0) + masks(HELD_OUT[4:], 0)
        assert trainer.model.seen[False] == 3 * expected
        assert evaluated(trainer) == expected

    def test_an_evaluation_before_training_warns(self, tmp_path):
        collator = DataCollatorForSpanMasking(tiny_tokenizer())
        trainer = make_trainer(tmp_path, collator)
        trainer.add_callback(SpanMaskingCallback(collator))
        with pytest.warns(UserWarning, match=r"add_callback.*callbacks=\[\.\.\.\]"):
            trainer.evaluate()
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="SpanMaskingCallback")
            assert evaluated(trainer) == masks(HELD_OUT[:4], 0) + masks(HELD_OUT[4:], 0)
