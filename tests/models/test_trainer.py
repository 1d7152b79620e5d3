# SPDX-License-Identifier: Apache-2.0
"""A plain Trainer with two changed lines, and what Trainer does with losses, columns and epochs."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import VOCABULARY, ended_workers, one_thread, tiny_config, tiny_texts, tiny_tokenizer  # noqa: F401
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from spanbert_ext.masking.callback import SpanMaskingCallback
from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.masking.masker import SpanMasker
from spanbert_ext.models.pretraining import SpanBertForPreTraining, span_metrics

SCRIPT = """
import torch
from transformers import BertForMaskedLM, DataCollatorForLanguageModeling, Trainer, TrainingArguments
from tiny_models import tiny_config, tiny_texts, tiny_tokenizer

torch.manual_seed(0)
tokenizer = tiny_tokenizer()
dataset = [tokenizer(text) for text in tiny_texts(256)]
model = BertForMaskedLM(tiny_config())
collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
arguments = TrainingArguments(
    output, max_steps=60, learning_rate=5e-3, per_device_train_batch_size=16, logging_steps=10,
    report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no",
)
trainer = Trainer(model, arguments, data_collator=collator, train_dataset=dataset, eval_dataset=dataset[:32])
trainer.train()
evaluation = trainer.evaluate()
"""
TWO_LINES = {
    "model = BertForMaskedLM(tiny_config())": "model = SpanBertForPreTraining(tiny_config())",
    "collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)": (
        "collator = DataCollatorForSpanMasking(tokenizer, mlm_probability=0.15)"
    ),
}


@pytest.mark.parametrize("changed", [False, True], ids=["as it was", "two lines changed"])
def test_two_changed_lines(changed, tmp_path):
    script = SCRIPT
    if changed:
        script = "from spanbert_ext import DataCollatorForSpanMasking, SpanBertForPreTraining\n" + script
        for old, new in TWO_LINES.items():
            assert script.count(old) == 1
            script = script.replace(old, new)
    names = {"output": str(tmp_path)}
    exec(script, names)
    losses = [entry["loss"] for entry in names["trainer"].state.log_history if "loss" in entry]
    assert len(losses) == 6 and all(map(math.isfinite, losses))
    assert losses[-1] < 0.75 * losses[0]
    heads = 2 if changed else 1
    assert 0.8 * math.log(len(VOCABULARY)) < losses[0] / heads < 1.1 * math.log(len(VOCABULARY))
    assert math.isfinite(names["evaluation"]["eval_loss"])


def make_rows(count: int, seed: int = 0, **options) -> list[dict]:
    tokenizer = tiny_tokenizer()
    return [dict(tokenizer(text)) for text in tiny_texts(count, seed, **options)]


def make_trainer(
    tmp_path, train=None, evaluation=None, model=None, collator=None, callbacks=(), metrics=None, **options
):
    if model is None:
        torch.manual_seed(0)
        model = SpanBertForPreTraining(tiny_config())
    defaults = {
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 4,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
    }
    return Trainer(
        model,
        TrainingArguments(str(tmp_path), **(defaults | options)),
        data_collator=collator or DataCollatorForSpanMasking(tiny_tokenizer(), epoch=0),
        train_dataset=train,
        eval_dataset=evaluation,
        callbacks=list(callbacks),
        compute_metrics=metrics,
    )


class TestAccumulation:
    def updated(self, tmp_path, accumulation: int, sbo_weight: float) -> torch.Tensor:
        torch.manual_seed(0)
        model = SpanBertForPreTraining(tiny_config(), sbo_weight=sbo_weight).double()
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        options = {
            "per_device_train_batch_size": 16 // accumulation,
            "gradient_accumulation_steps": accumulation,
        }
        options |= {
            "optim": "sgd",
            "learning_rate": 1.0,
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0.0,
        }
        make_trainer(tmp_path, make_rows(16), model=model, max_steps=1, seed=1, **options).train()
        return torch.cat([p.detach().flatten() for p in model.parameters()]) - before

    def test_trainer_accumulates_to_the_same_step(self, tmp_path):
        """The MLM's part exactly, although counts differ; the SBO's up to its share rule (unscaled: 3)."""
        for sbo_weight, tolerance in ((0.0, 1e-9), (1.0, 0.3)):
            one, four = (self.updated(tmp_path, steps, sbo_weight) for steps in (1, 4))
            assert one.norm() > 0
            assert (one - four).norm() < tolerance * one.norm()


class TestEvaluation:
    def test_losses_are_means_over_all_tokens(self, tmp_path):
        """Rows of very different lengths: any batch size gives the same numbers, those of one large batch."""
        rows = make_rows(13, words=(1, 40))
        model = SpanBertForPreTraining(tiny_config())
        results = []
        for size in (1, 4, 13):
            trainer = make_trainer(
                tmp_path, evaluation=rows, model=model, metrics=span_metrics, per_device_eval_batch_size=size
            )
            results.append(trainer.evaluate())
        batch = DataCollatorForSpanMasking(tiny_tokenizer(), epoch=0)(rows)
        expected = model.eval()(**batch)
        for result in results:
            for name in ("mlm_loss", "sbo_loss", "mlm_accuracy", "sbo_accuracy"):
                assert result[f"eval_{name}"] == pytest.approx(expected[name].item(), rel=1e-5), name

    def test_trainers_label_smoothing_raises(self, tmp_path):
        trainer = make_trainer(tmp_path, make_rows(8), max_steps=1, label_smoothing_factor=0.1)
        with pytest.raises(ValueError, match=r"without labels.*label_smoothing option"):
            trainer.train()

    def test_masks_made_in_forward_are_evaluated_with_label_names_empty(self, tmp_path):
        rows = make_rows(10)
        model = SpanBertForPreTraining(tiny_config())
        model.set_masker(SpanMasker.from_tokenizer(tiny_tokenizer()))
        common = {"evaluation": rows, "model": model, "collator": DataCollatorWithPadding(tiny_tokenizer())}
        without = make_trainer(tmp_path, rows, metrics=span_metrics, max_steps=3, **common)
        assert "eval_loss" not in without.evaluate()
        trainer = make_trainer(tmp_path, rows, metrics=span_metrics, max_steps=3, label_names=[], **common)
        trainer.train()
        assert model.masking_step == 3
        first, second = trainer.evaluate(), trainer.evaluate()
        assert math.isfinite(first["eval_loss"]) and first["eval_mlm_loss"] > 0 and first["eval_sbo_loss"] > 0
        assert first["eval_mlm_loss"] == second["eval_mlm_loss"]

    def test_logits_reach_predict_when_nothing_is_labelled(self, tmp_path):
        rows = make_rows(6, words=(8, 8))
        trainer = make_trainer(tmp_path, collator=DataCollatorWithPadding(tiny_tokenizer()))
        assert trainer.predict(rows).predictions.shape == (6, len(rows[0]["input_ids"]), len(VOCABULARY))


class Recorder:
    """Notes what the model reads: one tuple of ids per row, in training and in evaluation."""

    def __init__(self, model: SpanBertForPreTraining) -> None:
        self.training: list[tuple[int, ...]] = []
        self.evaluation: list[tuple[int, ...]] = []
        model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, model, args, kwargs) -> None:
        rows = self.training if model.training else self.evaluation
        for ids, attention in zip(kwargs["input_ids"], kwargs["attention_mask"], strict=True):
            rows.append(tuple(ids[attention.bool()].tolist()))


def masks_of(rows: list[dict], epoch: int) -> list[tuple[int, ...]]:
    recorder = []
    collator = DataCollatorForSpanMasking(tiny_tokenizer(), epoch=epoch)
    for row in rows:
        recorder.append(tuple(collator([row])["input_ids"][0].tolist()))
    return recorder


class TestEpochs:
    """With the callback every epoch has its own masks and every evaluation the same ones."""

    @pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
    def test_epochs_differ_and_evaluations_agree(self, tmp_path, workers, persistent, ended_workers):  # noqa: F811
        train, held_out = make_rows(16, words=(20, 40)), make_rows(6, seed=9, words=(20, 40))
        collator = DataCollatorForSpanMasking(tiny_tokenizer())
        trainer = make_trainer(
            tmp_path,
            train,
            {"a": held_out[:4], "b": held_out[4:]},
            collator=collator,
            callbacks=[SpanMaskingCallback(collator)],
            num_train_epochs=3,
            eval_strategy="steps",
            eval_steps=3,  # in the middle of an epoch, while workers prefetch
            eval_on_start=True,
            dataloader_num_workers=workers,
            dataloader_persistent_workers=persistent,
        )
        recorder = Recorder(trainer.model)
        trainer.train()
        trainer.evaluate()
        assert len(recorder.training) == 48 and len(recorder.evaluation) == 6 * (1 + 4 + 1)
        for epoch in range(3):
            seen = recorder.training[16 * epoch : 16 * (epoch + 1)]
            assert sorted(seen) == sorted(masks_of(train, epoch))
        assert recorder.evaluation == masks_of(held_out, 0) * 6

    def test_a_resumed_run_goes_on_with_the_same_masks(self, tmp_path):
        def run(folder, resume=None, **options):
            collator = DataCollatorForSpanMasking(tiny_tokenizer())
            trainer = make_trainer(
                folder,
                make_rows(16),
                collator=collator,
                callbacks=[SpanMaskingCallback(collator)],
                num_train_epochs=3,
                save_strategy="steps",
                save_steps=6,
                **options,
            )
            recorder = Recorder(trainer.model)
            trainer.train(resume_from_checkpoint=resume)
            return recorder.training

        whole = run(tmp_path)
        resumed = run(tmp_path, resume=str(tmp_path / "checkpoint-6"))
        assert len(whole) == 48
        assert resumed == whole[24:]  # the second half of epoch 1, then epoch 2

    def test_an_epoch_that_was_cut_short_is_not_repeated(self, tmp_path):
        class StopsEarly(SpanMaskingCallback):
            def on_step_end(self, args, state, control, **kwargs):
                control.should_epoch_stop = state.global_step == 1
                return control

        collator = DataCollatorForSpanMasking(tiny_tokenizer())
        rows = make_rows(8, words=(20, 40))
        trainer = make_trainer(
            tmp_path, rows, collator=collator, callbacks=[StopsEarly(collator)], num_train_epochs=2
        )
        recorder = Recorder(trainer.model)
        trainer.train()
        assert sorted(recorder.training[-8:]) == sorted(masks_of(rows, 1))

    def test_columns_for_masking_pass_trainers_filter(self, tmp_path):
        datasets = pytest.importorskip("datasets")
        rows = [{**row, "sample_epoch": 7, "comment": "dropped"} for row in make_rows(8)]
        for data in (rows, datasets.Dataset.from_list(rows)):
            trainer = make_trainer(tmp_path, data, num_train_epochs=2)
            recorder = Recorder(trainer.model)
            trainer.train()
            for epoch in (recorder.training[:8], recorder.training[8:]):
                assert sorted(epoch) == sorted(masks_of(make_rows(8), 7))

    def test_the_callback_needs_trainers_own_collator(self, tmp_path):
        other = DataCollatorForSpanMasking(tiny_tokenizer())
        trainer = make_trainer(tmp_path, make_rows(8), callbacks=[SpanMaskingCallback(other)], max_steps=1)
        with pytest.raises(ValueError, match=r"does not use the collator.*a DataCollatorForSpanMasking"):
            trainer.train()


def test_checkpoints_of_trainer_load(tmp_path):
    trainer = make_trainer(tmp_path, make_rows(8), max_steps=2, save_strategy="steps", save_steps=2)
    trainer.train()
    model = SpanBertForPreTraining.from_pretrained(tmp_path / "checkpoint-2")
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
