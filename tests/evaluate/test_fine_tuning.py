# SPDX-License-Identifier: Apache-2.0
"""What the tasks share: which rows make which batch, what is trained at which rate, folds."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

import torch
from tiny_models import one_thread  # noqa: F401
from torch import nn

from spanbert_ext.evaluate.tasks.batches import prediction_batches, training_batches
from spanbert_ext.evaluate.tasks.fine_tuning import collate_tokens, fine_tune, parameter_groups
from spanbert_ext.evaluate.tasks.folds import at_most, cross_validation, hold_out
from spanbert_ext.evaluate.tasks.form import Conditions, EvaluationError, Fold
from spanbert_ext.evaluate.tasks.options import TrainingOptions


def test_every_row_is_in_every_epoch_once_and_the_order_is_the_seeds() -> None:
    lengths = [5 + i % 7 for i in range(103)]
    batches = training_batches(lengths, 8, 2, seed=3)
    assert len(batches) == 26
    for epoch in (batches[:13], batches[13:]):
        assert sorted(i for batch in epoch for i in batch) == list(range(103))
    assert batches == training_batches(lengths, 8, 2, seed=3)
    assert batches != training_batches(lengths, 8, 2, seed=4)
    assert batches[:13] != batches[13:]


def test_rows_of_one_length_are_together() -> None:
    lengths = [1 + i % 10 for i in range(400)]
    waste = 0
    for batch in training_batches(lengths, 8, 1, seed=0):
        own = [lengths[i] for i in batch]
        waste += max(own) * len(own) - sum(own)
    assert waste < 0.05 * sum(lengths)


@pytest.mark.parametrize("epochs, count", [(0.5, 7), (1.0, 13), (1.01, 14), (0.0001, 1)])
def test_parts_of_an_epoch(epochs: float, count: int) -> None:
    assert len(training_batches([1] * 100, 8, epochs, seed=0)) == count


def test_prediction_batches_hold_every_row_within_their_size() -> None:
    lengths = [3, 50, 7, 7, 20, 1]
    batches = prediction_batches(lengths, 40)
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert batches[0] == [1]  # alone, though it is longer
    assert all(len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 40 for batch in batches)


def test_collated_rows_are_padded_and_no_longer_than_the_encoder_reads() -> None:
    rows = [
        {"input_ids": [2, 7, 3], "token_type_ids": [0, 1, 1]},
        {"input_ids": list(range(2, 12)), "token_type_ids": [0] * 10},
    ]
    batch = collate_tokens(rows, pad_token_id=9, longest=12)
    assert batch["input_ids"].shape == (2, 12)  # 16, a multiple of 8, is more than the 12 positions
    assert batch["input_ids"][0].tolist() == [2, 7, 3] + [9] * 9
    assert batch["attention_mask"].sum(1).tolist() == [3, 10]
    assert batch["token_type_ids"][0].tolist() == [0, 1, 1] + [0] * 9


class Line(nn.Module):
    """y = w x + b, trained to meet its labels."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(1, 1)
        self.head = nn.Linear(1, 1)
        self.norm = nn.LayerNorm(1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": ((self.head(self.encoder(x)) - y) ** 2).mean()}


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([[row[name]] for row in rows]) for name in ("x", "y")}


def test_parameter_groups_have_rates_by_prefix_and_no_decay_of_vectors() -> None:
    model = Line()
    model.encoder.bias.requires_grad_(False)
    groups = parameter_groups(model, 0.1, [("encoder.", 1e-5), ("", 1e-3)])
    found = {(group["lr"], group["weight_decay"]): len(group["params"]) for group in groups}
    assert found == {(1e-5, 0.1): 1, (1e-3, 0.1): 1, (1e-3, 0.0): 3}


def rows_of_a_line(count: int = 20) -> list[dict]:
    return [{"input_ids": [0], "x": 2 * i / count, "y": 6 * i / count - 1} for i in range(count)]


def test_a_model_is_trained_by_the_options() -> None:
    torch.manual_seed(0)
    model, shares = Line(), []
    options = TrainingOptions(epochs=60, batch_size=5, weight_decay=0.0, warmup_ratio=0.05)
    rates = [("encoder.", 0.03), ("", 0.03)]
    facts = fine_tune(
        model, rows_of_a_line(), collate, options, Conditions(0, progress=shares.append), rates=rates
    )
    assert facts["updates"] == 240 and facts["training_rows"] == 20
    assert facts["losses"][-1][1] < 1e-3 < facts["losses"][0][1] and "diverged" not in facts
    assert shares == sorted(shares) and shares[-1] == pytest.approx(0.9)


def test_a_rate_of_zero_leaves_weights_as_they_are() -> None:
    model = Line()
    before, head = model.encoder.weight.clone(), model.head.weight.clone()
    options = TrainingOptions(epochs=1, batch_size=5)
    fine_tune(model, rows_of_a_line(), collate, options, Conditions(0), rates=[("encoder.", 0.0), ("", 0.1)])
    assert torch.equal(model.encoder.weight, before) and not torch.equal(model.head.weight, head)


def test_a_loss_that_is_no_number_is_a_fact_and_no_error() -> None:
    """At the last update too, which is no multiple of those whose losses are logged; from then on nothing is done."""
    options = TrainingOptions(epochs=1, batch_size=1)
    for wrong, updates in ((58, 59), (3, 4)):
        rows = [row | {"input_ids": [0] * (59 - i)} for i, row in enumerate(rows_of_a_line(59))]
        order = [i for (i,) in training_batches([len(row["input_ids"]) for row in rows], 1, 1, seed=0)]
        rows[order[wrong]]["y"] = float("nan")
        facts = fine_tune(Line(), rows, collate, options, Conditions(0), rates=[("", 0.01)])
        assert facts["diverged"] is True and facts["updates"] == updates
    facts = fine_tune(Line(), rows_of_a_line(59), collate, options, Conditions(0), rates=[("", 0.01)])
    assert "diverged" not in facts and facts["updates"] == facts["losses"][-1][0] == 59


def test_nothing_to_train_on_is_said() -> None:
    with pytest.raises(EvaluationError, match="no token of anything"):
        fine_tune(Line(), [], collate, TrainingOptions(), Conditions(0), rates=[("", 0.1)])


@pytest.mark.parametrize("hidden, rate", [(64, 5e-4), (128, 5e-4), (384, 2e-4), (768, 5e-5), (1024, 2e-5)])
def test_the_rate_is_that_of_the_size_where_none_is_given(hidden: int, rate: float) -> None:
    assert TrainingOptions().rate_for(hidden) == rate
    assert TrainingOptions(learning_rate=1e-3).rate_for(hidden) == 1e-3


# --- Folds -------------------------------------------------------------------------------------------------------

CLUSTERS = [
    name for name, size in zip("abcdefgh", (9, 7, 5, 5, 3, 2, 2, 1), strict=True) for _ in range(size)
]


def names(indices: object) -> set[str]:
    return {CLUSTERS[i] for i in indices}


def test_folds_test_each_cluster_once_and_are_of_a_size() -> None:
    folds = cross_validation(CLUSTERS, 3, "articles")
    assert sorted(i for fold in folds for i in fold.test) == list(range(len(CLUSTERS)))
    for fold in folds:
        assert sorted((*fold.train, *fold.test)) == list(range(len(CLUSTERS)))
        assert not names(fold.train) & names(fold.test)
    assert max(len(fold.test) for fold in folds) - min(len(fold.test) for fold in folds) <= 2
    with pytest.raises(EvaluationError, match="--folds is 9 but the data has 8 articles"):
        cross_validation(CLUSTERS, 9, "articles")


def test_what_is_held_out_is_whole_clusters_of_about_the_share() -> None:
    fold = Fold("dev", tuple(range(len(CLUSTERS))), ())
    held = hold_out(fold, CLUSTERS, share=0.2, most=1000)
    assert sorted((*held.train, *held.held_out)) == list(fold.train)
    assert not names(held.train) & names(held.held_out)
    assert 0 < len(held.held_out) <= 0.2 * len(fold.train)
    assert len(hold_out(fold, CLUSTERS, share=0.5, most=2).held_out) <= 2
    assert len(hold_out(fold, CLUSTERS, share=0.01, most=1000).held_out) == 1  # the smallest cluster


def test_one_cluster_is_not_held_out() -> None:
    fold = Fold("dev", (0, 1, 2), (9,))
    assert hold_out(fold, CLUSTERS, 0.5, 1000) == fold


def test_fewer_training_items_are_the_same_for_all() -> None:
    fold = Fold("dev", tuple(range(20, 40)), tuple(range(20)))
    few, fewer = at_most(fold, 7), at_most(fold, 3)
    assert len(few.train) == 7 and set(fewer.train) < set(few.train) < set(fold.train)
    assert few == at_most(fold, 7) and few.test == fold.test
    assert at_most(fold, None) == at_most(fold, 20) == fold
