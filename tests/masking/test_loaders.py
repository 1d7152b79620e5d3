# SPDX-License-Identifier: Apache-2.0
"""Plain numbers beside the tensors of a batch, through whatever carries batches to the model.

Two processes under accelerate: in tests/models/test_two_processes.py.
"""

from __future__ import annotations

import pytest
from accelerate.utils import concatenate, send_to_device
from tiny_models import (  # noqa: F401
    full_batch,
    in_order,
    make_model,
    one_thread,
    skewed_batch,
    tiny_texts,
    tiny_tokenizer,
)
from torch import nn
from torch.nn.parallel.scatter_gather import scatter
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from spanbert_ext import DataCollatorForSpanMasking, SpanMaskingCallback, span_metrics

HINTS = ("max_rows", "max_read_rows", "all_text")


def skewed_rows(batches: int, size: int = 96) -> list[dict]:
    """Batches of which each has one long row."""
    tokenizer = tiny_tokenizer()
    texts = []
    for batch in range(batches):
        texts += tiny_texts(1, seed=batch, words=(40, 40))
        texts += tiny_texts(size - 1, seed=100 + batch, words=(1, 8))
    return [dict(tokenizer(text)) for text in texts]


def hints_seen(model) -> list[dict]:
    seen = []

    def note(module, args, kwargs):
        seen.append({name: kwargs[name] for name in HINTS if name in kwargs})

    model.register_forward_pre_hook(note, with_kwargs=True)
    return seen


SKEWED = {"max_rows": 256, "max_read_rows": 512, "all_text": False}


@pytest.mark.parametrize("workers", [0, 2])
def test_trainer_trains_and_evaluates(tmp_path, workers):
    def results(row_bounds):
        collator = DataCollatorForSpanMasking(tiny_tokenizer(), row_bounds=row_bounds)
        model = make_model()
        seen = hints_seen(model)
        trainer = Trainer(
            model,
            TrainingArguments(
                str(tmp_path),
                max_steps=4,
                per_device_train_batch_size=96,
                per_device_eval_batch_size=96,
                gradient_accumulation_steps=2,
                dataloader_num_workers=workers,
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                save_strategy="no",
            ),
            data_collator=collator,
            train_dataset=skewed_rows(4),
            eval_dataset=skewed_rows(2)[:150],
            callbacks=[SpanMaskingCallback(collator)],
            compute_metrics=span_metrics,
        )
        in_order(trainer).train()
        return trainer.evaluate(), seen

    found, seen = results("auto")
    expected, nothing = results(False)
    assert seen[:8] == [SKEWED] * 8 and len(seen) == 10  # 8 batches of 4 steps, then 2 of the evaluation
    assert nothing == [{}] * 10
    for name in ("eval_loss", "eval_mlm_loss", "eval_sbo_loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6)


def test_accelerate_and_data_parallel_pass_them_on():
    for batch in (skewed_batch(), full_batch(96)):
        numbers = {name: batch[name] for name in HINTS if name in batch}
        sent = send_to_device(batch, "cpu")
        assert {name: sent[name] for name in numbers} == numbers
        assert [type(sent[name]) for name in numbers] == [type(x) for x in numbers.values()]
        assert scatter(numbers, [0, 1]) == [numbers, numbers]  # replicas get the bounds of the whole batch
        model = make_model()
        assert nn.DataParallel(model)(**batch).loss == model(**batch).loss


def test_the_dispatching_loader_takes_tensors_alone():
    with pytest.raises(TypeError, match="an only concatenate tensors"):
        concatenate([skewed_batch(), skewed_batch()])
    joined = concatenate([skewed_batch(row_bounds=False), skewed_batch(row_bounds=False)])
    assert joined["labels"].shape == (192, 52)


def test_a_loop_that_moves_every_value_trains():
    loader = DataLoader(skewed_rows(2), 96, collate_fn=DataCollatorForSpanMasking(tiny_tokenizer()))
    model = make_model()
    for batch in loader:
        assert set(HINTS) <= batch.keys()
        model(**{name: x.to("cpu", non_blocking=True) for name, x in batch.items()}).loss.backward()
    assert model.sbo.dense1.weight.grad.abs().max() > 0
