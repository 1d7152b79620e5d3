# SPDX-License-Identifier: Apache-2.0
"""Pairs under Trainer: an update is one batch, evaluation beside the majority rate, and the names of the column."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from pair_samples import pair_model, pair_rows
from test_trainer_counts import Gradients, flat
from tiny_models import in_order, make_model, one_thread, tiny_tokenizer  # noqa: F401
from torch import Tensor
from transformers import Trainer, TrainingArguments

from spanbert_ext import DataCollatorForSpanMasking, SpanMaskingCallback, span_metrics

NAMES = ("nsp_loss", "nsp_accuracy", "mlm_loss", "sbo_loss")


def ragged_pairs(count: int) -> list[dict]:
    """Batches of two rows have one target, two or none, and a number of masked tokens that says nothing of that."""
    rows = pair_rows(count)
    for index, row in enumerate(rows):
        if index % 8 in (0, 1, 5):
            row["is_random_next"] = -100
        if index % 3 == 0:
            row |= {name: row[name][:6] for name in ("input_ids", "token_type_ids", "attention_mask")}
    return rows


def make_trainer(
    folder, rows, exact: bool = True, model=None, metrics=None, **options
) -> tuple[Trainer, list]:
    collator = DataCollatorForSpanMasking(tiny_tokenizer(), epoch=None if exact else 0)
    recorder = Gradients()
    defaults = {"gradient_accumulation_steps": 4, "per_device_train_batch_size": 2, "save_strategy": "no"}
    defaults |= {
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    defaults |= {"per_device_eval_batch_size": 4, "learning_rate": 0.0}
    trainer = Trainer(
        pair_model().double() if model is None else model,
        TrainingArguments(str(folder), **(defaults | options)),
        data_collator=collator,
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=metrics,
        callbacks=[recorder, SpanMaskingCallback(collator)] if exact else [recorder],
    )
    return in_order(trainer), recorder.found


def whole(rows: list[dict], model=None, epoch: int = 0):
    model = pair_model().double() if model is None else model
    return model, model(
        **DataCollatorForSpanMasking(tiny_tokenizer(), epoch=epoch)(rows), return_logits=False
    )


def error(found: Tensor, rows: list[dict], epoch: int = 0) -> float:
    model, output = whole(rows, epoch=epoch)
    output.loss.backward()
    wanted = flat(model)
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(
    "options",
    [{}, {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}],
    ids=["4 x 2", "1 x 8"],
)
def test_an_update_is_one_batch(tmp_path, options):
    rows = ragged_pairs(20)
    trainer, found = make_trainer(tmp_path, rows, num_train_epochs=2, **options)
    trainer.train()
    updates = [(epoch, rows[first : first + 8]) for epoch in range(2) for first in (0, 8, 16)]
    assert len(found) == len(updates)
    for gradient, (epoch, of_update) in zip(found, updates, strict=True):
        assert error(gradient, of_update, epoch) < 1e-10


def test_without_a_count_the_gradient_is_off(tmp_path):
    """What the test above measures."""
    rows = ragged_pairs(8)
    trainer, found = make_trainer(tmp_path, rows, exact=False, max_steps=1)
    trainer.train()
    assert error(found[0], rows) > 0.05


def test_evaluation(tmp_path):
    rows = ragged_pairs(22)
    model, expected = whole(rows, pair_model(4).eval())
    targets = [row["is_random_next"] for row in rows if row["is_random_next"] >= 0]
    majority = max(targets.count(0), targets.count(1)) / len(targets)
    assert 0.5 < majority < 0.9 and abs(expected.nsp_accuracy - majority) > 0.05
    for options in ({}, {"batch_eval_metrics": True}, {"eval_do_concat_batches": False}):
        trainer, _ = make_trainer(tmp_path, rows, model=model, metrics=span_metrics, **options)
        for _ in range(2):
            found = trainer.evaluate()
            for name in NAMES:
                assert found[f"eval_{name}"] == pytest.approx(expected[name].item(), rel=1e-5)
            assert found["eval_nsp_count"] == len(targets) == expected.nsp_count
            assert found["eval_nsp_majority_rate"] == pytest.approx(majority)
    predictions = trainer.predict(rows).predictions
    assert [np.shape(part) for part in predictions[0]] == [(4, 6), (4, 4)]


def test_logits_for_metrics_of_ones_own(tmp_path):
    """`compute_metrics` gets one array, as of a model without the head."""

    def accuracy(evaluation):
        assert isinstance(evaluation.predictions, np.ndarray)
        masked = evaluation.label_ids >= 0
        return {"accuracy": float((evaluation.predictions.argmax(-1) == evaluation.label_ids)[masked].mean())}

    rows = ragged_pairs(10)
    model, expected = whole(rows, pair_model().eval())
    trainer, _ = make_trainer(tmp_path, rows, model=model, metrics=accuracy)
    assert trainer.evaluate()["eval_accuracy"] == pytest.approx(expected.mlm_accuracy.item())


def test_metrics_by_hand():
    of_tokens = np.array(
        [[2.0, 1, 1, 0, 0, 0], [3.0, 9, 0, 8.0, 4, 1], [0.0, 0, 0, 0, 0, 0]], dtype=np.float32
    )
    of_pairs = np.array([[0.25, 1, 1, 1], [0.75, 1, 0, 0], [0.5, 1, 1, 1]], dtype=np.float32)
    expected = {"mlm_loss": 0.5, "mlm_accuracy": 0.1, "sbo_loss": 2.0, "sbo_accuracy": 0.25}
    expected |= {"nsp_loss": 0.5, "nsp_accuracy": 2 / 3, "nsp_count": 3, "nsp_majority_rate": 2 / 3}
    listed = [(of_tokens[:1], of_pairs[:1]), (of_tokens[1:], of_pairs[1:])]
    hidden = (np.zeros((3, 4)),)
    for predictions in ((of_tokens, of_pairs), (of_tokens, of_pairs, hidden), listed):
        assert span_metrics(SimpleNamespace(predictions=predictions)) == pytest.approx(expected)
    without = {name for name in expected if "nsp" not in name}
    for predictions in ((of_tokens, hidden), (of_tokens, 0 * of_pairs), (of_tokens,)):
        assert set(span_metrics(SimpleNamespace(predictions=predictions))) == without


def test_transformers_name_of_the_column(tmp_path):
    """Trainer drops it; nothing is trained without a word then."""
    rows = pair_rows(8, column="next_sentence_label")
    trainer, found = make_trainer(tmp_path, rows, remove_unused_columns=False, max_steps=1)
    trainer.train()
    assert error(found[0], pair_rows(8)) < 1e-10
    trainer, _ = make_trainer(tmp_path, rows, max_steps=1)
    with pytest.raises(
        ValueError, match="has no is_random_next.*Trainer drops one named next_sentence_label"
    ):
        trainer.train()
