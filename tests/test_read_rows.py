"""The last layer on the rows that are read: which they are, that nothing else changes, when all are computed."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from tiny_models import (  # noqa: F401
    INDICES,
    assert_close,
    encoder_inputs,
    gradients,
    make_batch,
    make_model,
    one_thread,
)
from torch import nn

from spanbert_ext import read_rows
from spanbert_ext.read_rows import find_read_rows


@pytest.fixture(params=["counted", "bounded"])
def way(request, monkeypatch):
    """Rows counted on the CPU, or as many as there could be, as on a GPU."""
    if request.param == "bounded":
        monkeypatch.setattr(read_rows, "may_read_values", lambda x: False)
    return request.param


def rows_computed(model) -> list[int]:
    """How many rows go through the last feed-forward network, call by call."""
    counts = []
    model.bert.encoder.layer[-1].intermediate.register_forward_hook(
        lambda module, inputs, output: counts.append(inputs[0].shape[:-1].numel())
    )
    return counts


def rows_read(batch: dict[str, torch.Tensor]) -> set[tuple[int, int]]:
    return {
        (b, position)
        for name in INDICES
        for b, row in enumerate(batch[name].tolist())
        for position in row
        if position >= 0
    }


class TestFindReadRows:
    # 2 rows of 6: the second has a position at each end, one twice, and some that are none
    POSITIONS = (torch.tensor([[-1], [0]]), torch.tensor([[-1], [5]]), torch.tensor([[6], [0]]))

    def test_by_hand(self):
        assert find_read_rows(self.POSITIONS, 2, 6).index.tolist() == [6, 11]
        assert find_read_rows(self.POSITIONS, 2, 6)[1:] == (2, 6)
        assert find_read_rows((torch.full((2, 3), -1),), 2, 6).index.tolist() == []
        assert find_read_rows((torch.full((2, 3), -7), torch.full((2, 1), 2)), 2, 6).index.tolist() == [2, 8]

    def test_by_hand_bounded(self, monkeypatch):
        monkeypatch.setattr(read_rows, "may_read_values", lambda x: False)
        # room for 3 positions of each row: what is read, then rows from the front
        assert find_read_rows(self.POSITIONS, 2, 6).index.tolist() == [6, 11, 0, 1, 2, 3]
        assert find_read_rows((torch.zeros(2, 6, dtype=torch.int64),), 2, 6) is None  # could be all of them

    def test_tensors_of_another_batch_are_left_to_the_loss(self):
        assert find_read_rows((torch.zeros(3, 1, dtype=torch.int64),), 2, 6) is None
        assert find_read_rows((torch.zeros(2, dtype=torch.int64),), 2, 6) is None
        assert find_read_rows((torch.zeros(2, 1),), 2, 6) is None

    def test_t4_empty_batches(self):
        for batch, length in ((0, 6), (2, 0)):
            found = find_read_rows((torch.full((batch, 1), -1),), batch, length)
            assert found.index.tolist() == []


class TestLastLayer:
    def test_loss_and_gradients_are_those_of_all_rows(self, way):
        batch = make_batch()
        outputs, grads, counts = [], [], []
        for skip in (True, False):
            model = make_model(skip_unread_rows=skip).double()
            computed = rows_computed(model)
            outputs.append(model(**batch))
            outputs[-1].loss.backward()
            grads.append(gradients(model))
            counts += computed
        torch.testing.assert_close(outputs[0].loss, outputs[1].loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(outputs[0].row_statistics, outputs[1].row_statistics)
        assert_close(*grads, 1e-10)
        rows, length = batch["input_ids"].shape
        read = len(rows_read(batch))
        bound = rows * min(length, sum(batch[name].shape[1] for name in INDICES))
        assert counts == [read if way == "counted" else bound, rows * length]
        assert read < bound < rows * length

    def test_labels_alone(self, way):
        batch = make_batch()
        labelled = {**encoder_inputs(batch), "labels": batch["labels"]}
        grads = []
        for skip in (True, False):
            model = make_model(skip_unread_rows=skip).double()
            computed = rows_computed(model)
            model(**labelled).loss.backward()
            grads.append(gradients(model))
            if skip and way == "counted":
                assert computed == [int((batch["labels"] >= 0).sum())]
        assert_close(*grads, 1e-10)

    def test_hidden_states_of_other_rows_are_zero(self):
        model, batch = make_model().eval(), make_batch()
        seen = []
        model.bert.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
        model(**batch)
        expected = model.bert(**encoder_inputs(batch))[0]
        read = torch.zeros(expected.shape[:2], dtype=torch.bool)
        for b, position in rows_read(batch):
            read[b, position] = True
        torch.testing.assert_close(seen[0][read], expected[read])
        assert not seen[0][~read].any() and expected[~read].any()

    def test_whoever_sees_the_hidden_states_gets_all(self):
        model, batch = make_model().eval(), make_batch()
        every = batch["input_ids"].numel()
        computed = rows_computed(model)
        expected = model.bert(**encoder_inputs(batch))[0]
        shown = model(**batch, output_hidden_states=True)
        torch.testing.assert_close(shown.hidden_states[-1], expected)
        assert model(**batch, return_logits=True).logits[:, 0].any()
        model(**encoder_inputs(batch))
        model.config.output_hidden_states = True
        torch.testing.assert_close(model(**batch).hidden_states[-1], expected)
        model.config.output_hidden_states = False
        assert computed == [every] * 5
        model(**batch)
        assert computed[-1] == len(rows_read(batch))

    def test_an_error_leaves_no_rows_behind(self, monkeypatch):
        model, batch = make_model().eval(), make_batch()
        expected = model.bert(**encoder_inputs(batch))[0]
        layer = model.bert.encoder.layer[-1]
        with monkeypatch.context() as patch:
            patch.setattr(layer.intermediate, "forward", lambda x: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                model(**batch)
        assert torch.equal(model.bert(**encoder_inputs(batch))[0], expected)

    def test_checkpointed_and_chunked_layers_compute_all_rows(self):
        batch = make_batch()
        every = batch["input_ids"].numel()
        model = make_model()
        model.gradient_checkpointing_enable()
        computed = rows_computed(model)
        model(**batch).loss.backward()
        assert computed == [every, every]  # once more in backward
        model.eval()
        model(**batch)
        assert computed[-1] == len(rows_read(batch))

        model = make_model()
        model.bert.encoder.layer[-1].chunk_size_feed_forward = batch["input_ids"].shape[1]
        computed = rows_computed(model)
        model(**batch).loss.backward()
        assert computed == [every]

    def test_the_last_layer_is_the_one_that_is_last_now(self):
        """Layers stacked on a model, or taken off it, as in growing and pruning."""
        batch = make_batch()
        model = make_model().double()
        layers = model.bert.encoder.layer
        grown = copy.deepcopy(model)
        grown.bert.encoder.layer = nn.ModuleList([*layers, *copy.deepcopy(layers)])
        cut = copy.deepcopy(model)
        cut.bert.encoder.layer = layers[:1]
        for changed in (grown, cut):
            loss = changed(**batch).loss
            changed.config.span_pretraining["skip_unread_rows"] = False
            torch.testing.assert_close(loss, changed(**batch).loss, rtol=1e-12, atol=0)
        cut.bert.encoder.layer = nn.ModuleList()
        assert torch.isfinite(cut(**batch).loss)

    def test_copies_skip_too(self):
        model, batch = make_model().eval(), make_batch()
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            computed = rows_computed(twin)
            assert torch.equal(twin(**batch).loss, model(**batch).loss)
            assert computed == [len(rows_read(batch))]

    def test_t12_positions_outside_are_the_losses_to_report(self):
        model, batch = make_model(), make_batch()
        length = batch["input_ids"].shape[1]
        batch["masked_positions"][0, 0] = length
        with pytest.raises((IndexError, ValueError), match="masked_positions"):
            model(**batch)
        batch = make_batch()
        batch["left_boundary"] = batch["left_boundary"][:3]
        with pytest.raises(ValueError, match="left_boundary"):
            model(**batch)
