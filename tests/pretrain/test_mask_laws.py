# SPDX-License-Identifier: Apache-2.0
"""Held-out rows under the shared laws, and accuracy by span length: tables by hand, and the model's own evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from transformers import BertTokenizerFast, EvalPrediction

from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.pretrain.run.evaluations import LENGTHS, by_law, evaluations
from spanbert_ext.pretrain.run.mask_laws import (
    held_out_metrics,
    length_statistics,
    run_lengths,
    shared_law_collators,
)


@pytest.fixture(scope="module")
def tokenizer():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(20)), "##s"]
    return BertTokenizerFast(vocab={token: id for id, token in enumerate(tokens)})


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [{"input_ids": [2, *range(5, 25), 3], "sample_ids": number} for number in range(6)]


def test_lengths_of_runs_by_hand():
    positions = torch.tensor([[1, 2, 3, 7, 9, 10, -1, -1], [4, 6, 8, 10, 12, 14, 16, 18], [-1] * 8])
    expected = [[3, 3, 3, 1, 2, 2, 0, 0], [1] * 8, [0] * 8]
    assert run_lengths(positions).tolist() == expected
    assert run_lengths(torch.empty(2, 0, dtype=torch.int64)).shape == (2, 0)
    assert run_lengths(torch.empty(0, 3, dtype=torch.int64)).shape == (0, 3)


def test_length_statistics_by_hand():
    """One row: a span of 3 (two right by the MLM; the SBO, which has no slot for the last, is right once) and a single
    token without boundaries, which the MLM gets wrong."""
    labels = torch.full((1, 12), -100)
    labels[0, [2, 3, 4, 8]] = torch.tensor([11, 12, 13, 14])
    batch = {"labels": labels, "masked_positions": torch.tensor([[2, 3, 4, 8, -1]])}
    outputs = {
        "mlm_prediction": torch.tensor([[11, 12, 9, 9, -1]]),
        "sbo_prediction": torch.tensor([[9, 12, -1, -1, -1]]),
    }
    found = length_statistics(outputs, batch).reshape(4, len(LENGTHS))
    expected = torch.zeros(4, len(LENGTHS))
    expected[:, 2] = torch.tensor([3.0, 2.0, 2.0, 1.0])
    expected[:2, 0] = torch.tensor([1.0, 0.0])
    assert torch.equal(found, expected)
    del outputs["sbo_prediction"]
    assert length_statistics(outputs, batch).reshape(4, -1)[2:].sum() == 0


@pytest.mark.parametrize("length", range(1, 30))
def test_every_length_falls_into_the_bin_that_is_named_after_it(length):
    positions = torch.arange(length)[None]
    outputs = {"mlm_prediction": positions}
    counts = length_statistics(outputs, {"labels": positions, "masked_positions": positions})[
        0, : len(LENGTHS)
    ]
    name = list(LENGTHS)[int(counts.argmax())]
    low, _, high = name.partition("-")
    assert counts.sum() == length
    assert length >= int(low.rstrip("+")) and (name.endswith("+") or length <= int(high or low))


def test_metrics_by_hand_and_sorted_by_law():
    statistics = np.array([[4.0, 2, 1, 3, 1, 1], [2.0, 1, 1, 0, 0, 0]], dtype=np.float32)
    lengths = np.zeros((2, 4, len(LENGTHS)), dtype=np.float32)
    lengths[:, :, 0] = [[2, 1, 1, 1], [1, 1, 0, 0]]
    metrics = held_out_metrics(EvalPrediction((statistics, lengths.reshape(2, -1)), None))
    assert metrics == {
        "mlm_loss": 2.0,
        "mlm_accuracy": pytest.approx(2 / 3),
        "sbo_loss": 3.0,
        "sbo_accuracy": 1.0,
        "count_length_1": 3,
        "mlm_accuracy_length_1": pytest.approx(2 / 3),
        "sbo_accuracy_length_1": 1.0,
    }
    history = [
        {"loss": 1.0, "step": 5},
        {f"eval_{name}": value for name, value in metrics.items()} | {"step": 5, "eval_runtime": 1.0},
        {"eval_spans_mlm_loss": 4.0, "step": 5},
        {"eval_tokens_mlm_loss": 5.0, "step": 5},
        {"eval_mlm_loss": 9.0, "step": 3},
    ]
    found = evaluations(history)
    assert sorted(found) == [3, 5]
    laws = by_law(found[5], "words")
    assert list(laws) == ["words", "spans", "tokens"]
    assert laws["words"]["mlm_loss"] == 2.0 and laws["spans"] == {"mlm_loss": 4.0, "by_span_length": []}
    assert laws["words"]["by_span_length"] == [
        {"length": "1", "tokens": 3, "mlm_accuracy": pytest.approx(2 / 3), "sbo_accuracy": 1.0}
    ]
    assert "eval_runtime" not in laws["words"] and by_law(found[5], "spans")["spans"]["mlm_loss"] == 2.0


def test_shared_laws_are_spans_and_tokens_but_the_runs_own(tokenizer):
    own = DataCollatorForSpanMasking(tokenizer, seed=7, ratio=0.3, scheme="words")
    assert list(shared_law_collators(tokenizer, own, "words")) == ["spans", "tokens"]
    assert list(shared_law_collators(tokenizer, own, "spans")) == ["tokens"]


def test_a_shared_law_masks_as_a_collator_of_that_law_and_the_same_forever(tokenizer, rows):
    own = DataCollatorForSpanMasking(tokenizer, seed=7, ratio=0.3, scheme="words")
    laws = shared_law_collators(tokenizer, own, "words")
    options = {"seed": 7, "ratio": 0.3, "epoch": 0}
    expected = {
        "spans": DataCollatorForSpanMasking(tokenizer, scheme="geometric", **options)(rows),
        "tokens": DataCollatorForSpanMasking(tokenizer, scheme="tokens", replacement="token", **options)(
            rows
        ),
    }
    assert not torch.equal(expected["spans"]["labels"], expected["tokens"]["labels"])
    for law, batch in expected.items():
        own.set_epoch(3)
        for _ in range(2):
            found = laws[law](rows)
            for name in ("input_ids", "labels", "left_boundary"):
                assert torch.equal(found[name], batch[name]), (law, name)


def test_candidates_of_the_rows_are_not_looked_at(tokenizer, rows):
    own = DataCollatorForSpanMasking(tokenizer, seed=7)
    collator = shared_law_collators(tokenizer, own, "entities")["spans"]
    with_candidates = [{**row, "candidates": [[3, 5]]} for row in rows]
    assert torch.equal(collator(with_candidates)["labels"], collator(rows)["labels"])
