# SPDX-License-Identifier: Apache-2.0
"""The plan of a run: steps from passes or tokens, what it says, what it warns of; trial steps leave no trace."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_models import VOCABULARY, tiny_config, tiny_texts, tiny_tokenizer

pytest.importorskip("transformers")

from transformers import Trainer, TrainerState

from spanbert_ext.files.wording import duration
from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.models.pretraining import SpanBertForPreTraining
from spanbert_ext.pretrain.run import arguments, measured_step
from spanbert_ext.pretrain.run.arguments import choose_precision, training_arguments
from spanbert_ext.pretrain.run.console import TimeLeft
from spanbert_ext.pretrain.run.measured_step import MeasuredStep, measure_step
from spanbert_ext.pretrain.run.optimizer import RunOptimizer
from spanbert_ext.pretrain.run.plan import Plan, make_plan, settle
from spanbert_ext.pretrain.settings.masking_options import collator_options
from spanbert_ext.pretrain.settings.options import OptionError, Options
from spanbert_ext.pretrain.settings.schedule_length import TrainingRows, steps_of, tokens_per_update

OWN = {"model": "some/bert"}


def rows_of(length: int, count: int, **more) -> TrainingRows:
    return TrainingRows(np.full(count, length, dtype=np.int32), **more)


# --- Steps -----------------------------------------------------------------------------------------------------------


def test_passes_and_tokens_become_steps():
    rows = rows_of(100, 640)  # 64,000 tokens; 16 * 2 rows are 3,200 of them
    assert tokens_per_update(Options(**OWN).resolve(), rows, 1) == 3200
    assert steps_of(Options(**OWN, epochs=3).resolve(), rows) == 60
    assert steps_of(Options(**OWN, epochs=0.5).resolve(), rows) == 10
    assert steps_of(Options(**OWN, epochs=3).resolve(), rows, processes=4) == 15
    assert steps_of(Options(**OWN, max_tokens=16_000).resolve(), rows) == 5
    assert steps_of(Options(**OWN, max_tokens=1).resolve(), rows) == 1
    assert steps_of(Options(**OWN, max_steps=7).resolve(), rows) == 7


def test_an_update_of_tokens_divides_a_pass_evenly():
    options = Options(**OWN, tokens_per_batch=10_000, epochs=2, block_size=128).resolve()
    rows = rows_of(100, 640)  # 6.4 updates of 10,000: six
    assert tokens_per_update(options, rows, 8) == pytest.approx(64_000 / 6)
    assert steps_of(options, rows, 8) == 12
    assert tokens_per_update(options, rows_of(100, 3), 1) == 300  # less text than one update


def test_a_pass_over_the_text_is_one_of_its_copies():
    options = Options(recipe="bert", model="base", epochs=5, short_phase=0).resolve()
    assert steps_of(options, rows_of(256, 10_000, passes=10)) == round(5 * 1000 / 256)


def test_short_rows_make_more_steps_of_the_same_tokens():
    options = Options(
        recipe="bert", model="base", max_tokens=10**6
    ).resolve()  # 256 rows; 90 % of the steps short
    rows = rows_of(500, 1000, short_lengths=np.full(4000, 100))
    assert tokens_per_update(options, rows, 1) == pytest.approx(256 * (0.9 * 100 + 0.1 * 500))
    assert steps_of(options, rows) == round(10**6 / (256 * 140))


def test_settled_options_hold_steps_precision_and_what_is_a_tenth():
    options = settle(Options(**OWN).resolve(), rows_of(100, 640), 1, bf16=True)
    assert (options.max_steps, options.warmup_steps, options.eval_steps, options.bf16) == (60, 4, 6, True)
    assert options.epochs == 3.0  # as the user said, for --resume
    assert settle(options, rows_of(100, 9999), 1, bf16=True) == options  # a resumed run keeps its length


# --- What it says ----------------------------------------------------------------------------------------------------


def plan_of(length: int = 480, count: int = 640, documents: int = 50, **given) -> Plan:
    rows = rows_of(length, count)
    options = settle(Options(**{**OWN, **given}).resolve(), rows, 1, bf16=False)
    return Plan(
        options=options,
        documents=documents,
        rows=rows,
        held_out=rows_of(length, 32),
        parameters=108_310_272,
        device="cpu",
        measured=MeasuredStep(10_000.0, 0.464, 3 * 10**9, 24 * 10**9),
    )


def test_a_plan_says_what_is_read_how_long_and_what_it_needs():
    text = " ".join(plan_of().text().split())
    for fact in (
        "some/bert, 108.3 M parameters, trained further",
        "MLM + SBO; spans masked, 15% of the tokens, fresh in every epoch",
        "50 documents; 640 training blocks of 480 tokens on average, at most 512 (94%); 32 held out",
        "32 rows, about 15.4k tokens: 2 forward passes of 16 rows",
        "60 steps, 922k tokens, 3.00 passes over the text; rate 5e-05 after 4 steps",
        "held-out loss at step 0 and every 6 steps",
        "float32 on cpu",
        "time about 2 min 11 s: 2 min of training, 11 s in 11 evaluations (--eval-steps N for fewer)",
        "2.0 s a step, 10k tokens a second; 1.0 s an evaluation under 2 ways of masking",
        "3.0 GB of 24.0 GB",
    ):
        assert fact in text, fact
    assert "note" not in text


def test_text_that_the_tokenizer_cannot_read_is_warned_of():
    assert not dataclasses.replace(plan_of(), unknown=0.05).warnings()
    wrong = "the tokenizer does not put [CLS] and [SEP] around a text"
    (warning,) = dataclasses.replace(plan_of(), without_row_ends=wrong).warnings()
    assert warning.startswith(wrong) and "TemplateProcessing" in warning
    (warning,) = dataclasses.replace(plan_of(), unknown=0.9).warnings()
    assert warning.startswith("90% of the tokens are unknown") and "--tokenizer" in warning


def test_a_plan_fits_the_terminal(monkeypatch):
    for columns, most in (("80", 80), ("300", 100)):
        monkeypatch.setenv("COLUMNS", columns)
        assert most - 12 < max(map(len, plan_of().text().splitlines())) <= most


def test_one_step_is_not_steps():
    text = " ".join(plan_of(epochs=None, max_steps=12, warmup_steps=1).text().split())
    assert "after 1 step, then" in text and "step 0 and every 1 step, a checkpoint every 1 step " in text


def test_a_resumed_run_plans_what_is_left():
    plan = dataclasses.replace(plan_of(), steps_taken=45)
    text = " ".join(plan.text().split())
    assert "60 steps, 922k tokens" in text
    assert (
        "time about 33 s: 30 s of training from step 45 on, 3.1 s in 3 evaluations" in text
    )  # 48, 54 and 60
    resumed = dataclasses.replace(plan, options=dataclasses.replace(plan.options, resume=True))
    assert "--eval-steps" in text and "--eval-steps" not in resumed.text()  # refused beside --resume


@pytest.mark.parametrize(("masking", "ways"), [("spans", 2), ("tokens", 2), ("words", 3)])
def test_an_evaluation_is_as_long_as_all_its_ways_of_masking(masking, ways):
    plan = plan_of(masking=masking)
    forward = 32 * 480 / 30_000
    assert plan.evaluation_seconds == pytest.approx(ways * forward)
    assert plan.first_evaluation() == (
        f"Step 0: the loss on 32 held-out rows under {ways} ways of masking, about {duration(ways * forward)}"
    )
    assert "ways of masking" in dataclasses.replace(plan, measured=None).first_evaluation()


def test_what_a_step_says_is_left_is_what_the_plan_says():
    plan = dataclasses.replace(plan_of(), steps_taken=45)
    left = TimeLeft()
    state = TrainerState(global_step=45, max_steps=60, eval_steps=6)
    runtimes = ("eval_runtime", "eval_tokens_runtime")
    state.log_history = [{"step": step, name: 99.0} for step in (0, 36) for name in runtimes]
    state.log_history += [{"step": 42, name: plan.evaluation_seconds / 2} for name in runtimes]
    assert left.seconds(state) is None
    tokens = 45 * plan.update_tokens
    left.update({"loss": 1.0, "tokens_seen": tokens, "tokens_per_second": plan.update_tokens / 2.0}, state)
    evaluating = plan.evaluations * plan.evaluation_seconds
    assert left.seconds(state) == pytest.approx(plan.training_seconds + evaluating) == pytest.approx(33.072)
    state.global_step = 48  # of which the evaluation is still to come
    assert left.seconds(state) == pytest.approx(12 * 2.0 + evaluating)
    state.global_step = 60
    assert left.seconds(state) == pytest.approx(plan.evaluation_seconds)


def test_evaluations_that_take_longer_than_training_are_warned_of():
    plan = dataclasses.replace(plan_of(held_out=0.4), held_out=rows_of(480, 340))
    assert 119 < plan.evaluations * plan.evaluation_seconds < plan.training_seconds and not plan.warnings()
    plan = dataclasses.replace(plan, held_out=rows_of(480, 3430))
    (warning,) = plan.warnings()
    assert warning == (
        "evaluations take 20 min 7 s and training 2 min: fewer by --eval-steps N (now 6), shorter ones by --held-out"
        " SHARE (now 0.4)."
    )
    resumed = dataclasses.replace(plan.options, resume=True)
    assert not dataclasses.replace(plan, options=resumed).warnings()


def test_a_plan_of_pairs_and_tokens():
    text = " ".join(plan_of(recipe="our-bert", model="base", epochs=1).text().split())
    assert "base, 108.3 M parameters, from random weights" in text
    assert "MLM + NSP; tokens masked" in text and "640 training pairs" in text
    assert "tokens in 8 forward passes" in text
    text = " ".join(plan_of(recipe="bert", model="base", max_tokens=10**9).text().split())
    assert "static, 10 a row" in text and "steps on rows of at most 128 tokens" in text


def test_short_documents_are_warned_of_below_a_half():
    assert not plan_of(length=257).warnings()
    (warning,) = plan_of(length=115).warnings()
    assert "115 of 512" in warning and "--document-separator" in warning and "--block-size 128" in warning


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"recipe": "spanbert", "model": "base"}, "--max-tokens N make a shorter run"),
        ({"recipe": "bert", "model": "base", "epochs": 4.0}, "--dupe-factor 1"),
        (
            {"recipe": "bert", "model": "base", "epochs": 11.0, "block_size": 128},
            "phase of short rows is left out",
        ),
        (
            {"recipe": "bert", "model": "base", "epochs": 11.0, "warmup_steps": 20},
            "update 21 is 6.2 times as large as the rate says",
        ),
        ({"model": "demo", "corpus": ["notes.txt"], "epochs": 1.0}, "--model bert-base-cased"),
    ],
)
def test_other_warnings_name_a_remedy(given, expected):
    warnings = plan_of(length=120, **given).warnings()
    assert sum(expected in warning for warning in warnings) == 1


def test_little_held_out_text_and_full_memory_are_warned_of():
    plan = dataclasses.replace(
        plan_of(), held_out=rows_of(9, 9), measured=MeasuredStep(1.0, 1.0, 95 * 10**8, 10**10)
    )
    assert ["--held-out" in plan.warnings()[0], "--batch-size" in plan.warnings()[1]] == [True, True]


def test_one_process_takes_one_gpu_and_says_what_takes_all(monkeypatch, tmp_path):
    assert dataclasses.replace(plan_of(), gpus=4, processes=4).warnings() == []
    (warning,) = dataclasses.replace(plan_of(), gpus=4).warnings()
    assert "torchrun --nproc-per-node 4 -m spanbert_ext.pretrain.cli" in warning

    def four(self) -> torch.device:
        self._n_gpu, self.distributed_state = 4, None
        return torch.device("cpu")

    monkeypatch.setattr(arguments.TrainingArguments, "_setup_devices", property(four))
    made = training_arguments(Options(**OWN).resolve().with_steps(5), tmp_path)
    assert made.n_gpu == 1


# --- A step is measured ----------------------------------------------------------------------------------------------


class PlainTrainer(RunOptimizer, Trainer):
    def __init__(self, options: Options, **more) -> None:
        super().__init__(**more)
        self.options = options


@pytest.fixture(params=["spanbert", "bert"])
def run(request, tmp_path):
    """A trainer on single rows, its options, collator and row lengths."""
    options = Options(
        recipe=request.param, rows="blocks", nsp=False, short_rows=0.0, dupe_factor=0, max_steps=3
    )
    options = dataclasses.replace(options.resolve(), device="cpu", bf16=False, dropout=0.1)
    tokenizer = tiny_tokenizer()
    ids = tokenizer(tiny_texts(40), truncation=True, max_length=32)["input_ids"]
    rows = Dataset.from_dict({"input_ids": ids, "sample_ids": list(range(40))})
    collator = DataCollatorForSpanMasking(tokenizer, **collator_options(options))
    trainer = PlainTrainer(
        model=SpanBertForPreTraining(tiny_config(hidden_dropout_prob=0.1)),
        args=training_arguments(options, tmp_path),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=collator,
        options=options,
    )
    return trainer, options, collator, np.array([len(row) for row in ids])


def test_trial_steps_leave_no_trace(run):
    trainer, options, collator, lengths = run
    trainer.model.eval()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    mask = collator([trainer.train_dataset[0]])["input_ids"]
    measured = measure_step(trainer, options, collator, trainer.train_dataset, lengths)
    assert measured.update_seconds > 0 and measured.tokens_per_second > 0
    assert 10**7 < measured.peak_bytes < measured.total_bytes
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state()[1].tolist() == state[1] and random.getstate() == state[2]
    assert trainer.optimizer is None and not trainer.model.training
    assert not torch.equal(
        collator([trainer.train_dataset[0]])["input_ids"], mask
    )  # the next epoch's, as ever


def test_gradients_that_are_not_finite_do_not_reach_the_weights(run):
    trainer, options, collator, lengths = run
    with torch.no_grad():
        trainer.model.bert.embeddings.word_embeddings.weight[VOCABULARY["the"]] = float("inf")
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    measure_step(trainer, options, collator, trainer.train_dataset, lengths)
    assert all(map(torch.equal, before, trainer.model.parameters()))


def test_the_longest_rows_come_first_and_slow_passes_once(run, monkeypatch):
    trainer, options, collator, lengths = run
    seen = []
    monkeypatch.setattr(measured_step, "_forward_backward", lambda model, batch, *_: seen.append(batch))
    monkeypatch.setattr(measured_step, "_optimizer_seconds", lambda *_: 0.5)
    measure_step(trainer, options, collator, trainer.train_dataset, lengths)
    assert len(seen) == 4
    longest = int(np.sort(lengths)[-options.batch_size :].sum())
    assert int(seen[0]["attention_mask"].sum()) == longest
    assert ("left_boundary" in seen[0]) == options.sbo
    monkeypatch.setattr(measured_step, "ENOUGH_SECONDS", 0.0)
    seen.clear()
    assert measure_step(trainer, options, collator, trainer.train_dataset, lengths).update_seconds == 0.5
    assert len(seen) == 1


def test_a_pass_of_tokens_takes_as_many_rows_as_fit():
    lengths = np.array([10, 20, 30, 40])
    assert measured_step._take(np.array([3, 2, 1, 0]), lengths, 99, 90.0).tolist() == [3, 2, 1]
    assert measured_step._take(np.array([3, 2, 1, 0]), lengths, 99, 1.0).tolist() == [3]
    assert measured_step._take(np.array([3, 2, 1, 0]), lengths, 3, None).tolist() == [3, 2, 1]


def test_rows_that_do_not_fit_are_said_before_training(run, monkeypatch):
    trainer, options, collator, lengths = run

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(measured_step, "_forward_backward", full)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a small GPU")
    with pytest.raises(
        OptionError, match="--batch-size 8 --gradient-accumulation 2, which is the same update"
    ):
        measure_step(trainer, options, collator, trainer.train_dataset, lengths)
    tokens = dataclasses.replace(options, tokens_per_batch=4096)
    with pytest.raises(OptionError, match="--tokens-per-batch 4096 .* try --gradient-accumulation 2"):
        measure_step(trainer, tokens, collator, trainer.train_dataset, lengths)


def test_a_plan_is_made_of_a_trainer(run):
    trainer, options, collator, lengths = run
    plan = make_plan(
        trainer, options, collator, 12, trainer.train_dataset, TrainingRows(lengths), lengths[:4]
    )
    assert plan.parameters == sum(parameter.numel() for parameter in trainer.model.parameters())
    assert "12 documents; 40 training blocks" in plan.text() and "on cpu" in plan.text()


def test_precision_follows_the_hardware_unless_it_is_given(monkeypatch):
    assert choose_precision(Options(device="cpu")) is False
    assert choose_precision(Options(device="cpu", bf16=True)) is True
    for native in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native
        )
        assert choose_precision(Options()) is native
        assert choose_precision(Options(bf16=False)) is False
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an old GPU")
    with pytest.raises(OptionError, match="--bf16: an old GPU has no bfloat16"):
        choose_precision(Options(bf16=True))
