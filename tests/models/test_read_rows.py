# SPDX-License-Identifier: Apache-2.0
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
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.bert.modeling_bert import BertLayer

from spanbert_ext.models import read_rows


@pytest.fixture(params=["counted", "bounded"])
def way(request, monkeypatch):
    """Rows counted on the CPU, or as many as there could be, as on a GPU."""
    if request.param == "bounded":
        monkeypatch.setattr(read_rows, "may_read_values", lambda x: False)
    return request.param


def rows_read(batch: dict[str, torch.Tensor], names: tuple[str, ...] = INDICES) -> set[tuple[int, int]]:
    """The first position of every row stands in for none."""
    return {
        (b, max(position, 0))
        for name in names
        for b, row in enumerate(batch[name].tolist())
        for position in [*row, 0]
    }


class TestLastLayer:
    def test_loss_and_gradients_are_those_of_all_rows(self, way, rows_computed):
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
        bound = rows * min(length, 1 + sum(batch[name].shape[1] for name in INDICES))
        assert counts == [read if way == "counted" else bound, rows * length]
        assert read < bound < rows * length

    @pytest.mark.parametrize("count_rows", [True, False])
    def test_labels_alone(self, way, count_rows, rows_computed):
        batch = make_batch()
        labelled = {**encoder_inputs(batch), "labels": batch["labels"]}
        every, read = batch["labels"].numel(), len(rows_read(batch, ("masked_positions",)))
        grads = []
        for skip in (True, False):
            model = make_model(skip_unread_rows=skip, count_rows=count_rows).double()
            computed = rows_computed(model)
            model(**labelled).loss.backward()
            grads.append(gradients(model))
            if not skip or (way == "bounded" and not count_rows):
                assert computed == [every]  # any position may have a label
            elif way == "counted":
                assert computed == [read]
            else:
                assert read <= computed[0] < every
        assert_close(*grads, 1e-10)

    def test_masked_positions_alone(self, way, rows_computed):
        batch = make_batch()
        del batch["left_boundary"], batch["right_boundary"]
        grads = []
        for skip in (True, False):
            model = make_model(skip_unread_rows=skip).double()
            computed = rows_computed(model)
            model(**batch).loss.backward()
            grads.append(gradients(model))
            if skip:
                rows, slots = batch["masked_positions"].shape
                read = len(rows_read(batch, ("masked_positions",)))
                assert computed == [read if way == "counted" else rows * (slots + 1)]
        assert_close(*grads, 1e-10)

    def test_hidden_states_of_other_rows_are_zero(self):
        model, batch = make_model().eval(), make_batch()
        with read_rows.only_rows(model, batch["input_ids"], [batch[name] for name in INDICES]):
            seen = [model.bert(**encoder_inputs(batch))[0]]
        expected = model.bert(**encoder_inputs(batch))[0]
        read = torch.zeros(expected.shape[:2], dtype=torch.bool)
        for b, position in rows_read(batch):
            read[b, position] = True
        torch.testing.assert_close(seen[0][read], expected[read])
        assert not seen[0][~read].any() and expected[~read].any()

    def test_hidden_states_and_logits_that_are_returned_have_all_rows(self, rows_computed):
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
        model(**batch)  # in evaluation with logits
        assert computed == [every] * 6
        model(**batch, return_logits=False)
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

    def test_chunked_layers_compute_all_rows(self, rows_computed):
        model, batch = make_model(), make_batch()
        model.bert.encoder.layer[-1].chunk_size_feed_forward = batch["input_ids"].shape[1]
        computed = rows_computed(model)
        model(**batch).loss.backward()
        assert computed == [batch["input_ids"].numel()]

    def test_the_last_layer_is_the_one_that_is_last_now(self, rows_computed):
        """Layers stacked on a model, or taken off it, as in growing and pruning."""
        model, batch = make_model().double(), make_batch()
        every, read = batch["input_ids"].numel(), len(rows_read(batch))

        def check(layers, expected: int) -> None:
            changed = copy.deepcopy(model)
            changed.bert.encoder.layer = nn.ModuleList(layers)
            computed = rows_computed(changed) if layers else []
            loss = changed(**batch).loss
            changed.config.span_pretraining["skip_unread_rows"] = False
            torch.testing.assert_close(loss, changed(**batch).loss, rtol=1e-12, atol=0)
            assert set(computed[: len(computed) // 2]) == ({expected} if layers else set())

        layers = list(copy.deepcopy(model.bert.encoder.layer))
        check([*layers, *copy.deepcopy(layers)], read)
        check(layers[:1], every)  # it was never prepared
        check([layers[1]] * 3, every)  # one layer for all: what is zero here is read there
        check([], 0)

    def test_foreign_modules_compute_all_rows(self, rows_computed):
        """Other modules than transformers' own may not work row by row."""

        class Wrapped(nn.Module):
            def __init__(self, inner: nn.Module) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, *args, **kwargs):
                return self.inner(*args, **kwargs)

        batch = make_batch()
        expected = make_model(skip_unread_rows=False).double().eval()(**batch).loss
        for path in ("bert.encoder", "bert.encoder.layer.1", "bert.encoder.layer.1.attention"):
            model = make_model(evaluation_logits=False).double().eval()
            computed = rows_computed(model)
            parent, name = model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]
            setattr(parent, name, Wrapped(getattr(parent, name)))
            assert model(**batch).loss == expected
            assert computed == [batch["input_ids"].numel()]
        for path in ("attention.output", "output"):
            model = make_model(evaluation_logits=False).double().eval()
            layer = model.bert.encoder.layer[-1]
            fresh = copy.deepcopy(model.bert.encoder.layer[0].get_submodule(path))
            fresh.load_state_dict(layer.get_submodule(path).state_dict())
            layer.set_submodule(path, fresh)  # one of transformers' own, but without our hooks
            assert model(**batch).loss == expected

    def test_copies_skip_too(self, rows_computed):
        model, batch = make_model(evaluation_logits=False).eval(), make_batch()
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            computed = rows_computed(twin)
            assert torch.equal(twin(**batch).loss, model(**batch).loss)
            assert computed == [len(rows_read(batch))]

    def test_positions_outside_are_reported_by_the_loss(self):
        model, batch = make_model(), make_batch()
        length = batch["input_ids"].shape[1]
        batch["masked_positions"][0, 0] = length
        with pytest.raises((IndexError, ValueError), match="masked_positions"):
            model(**batch)
        batch = make_batch()
        batch["left_boundary"] = batch["left_boundary"][:3]
        with pytest.raises(ValueError, match="left_boundary"):
            model(**batch)
        batch["left_boundary"] = torch.empty(8, 3, dtype=torch.int64, device="meta")
        with pytest.raises(ValueError, match="left_boundary is on meta"):
            model(**batch)


class TestRecomputation:
    """Layers that backward computes again, in all the ways there are; dropout tells whether it is the same."""

    @pytest.fixture(autouse=True)
    def _watch(self, rows_computed) -> None:
        self.rows_computed = rows_computed

    def gradients_of(self, prepare, skip: bool) -> tuple[dict[str, torch.Tensor], list[int]]:
        model = make_model(skip_unread_rows=skip).double()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.1
        computed = self.rows_computed(model)
        prepare(model)
        torch.manual_seed(0)
        model(**make_batch()).loss.backward()
        return gradients(model), computed

    def own(self, model) -> None:
        model.gradient_checkpointing_enable()

    def wrapped(self, model) -> None:
        apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, BertLayer))

    @pytest.mark.parametrize("way", ["own", "wrapped"])
    def test_all_rows_are_computed_twice(self, way):
        found, computed = self.gradients_of(getattr(self, way), True)
        expected, _ = self.gradients_of(getattr(self, way), False)
        assert_close(found, expected, 1e-12)
        assert computed == [make_batch()["input_ids"].numel()] * 2

    def test_reentrant_around_the_encoder(self):
        def prepare(model) -> None:
            forward = model.bert.encoder.forward

            def again(x, **kwargs):
                return checkpoint(lambda x: forward(x, **kwargs)[0], x, use_reentrant=True)

            def encoder(x, **kwargs):
                return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=again(x, **kwargs))

            model.bert.encoder.forward = encoder

        found, computed = self.gradients_of(prepare, True)
        expected, _ = self.gradients_of(prepare, False)
        assert_close(found, expected, 1e-12)
        assert computed == [make_batch()["input_ids"].numel()] * 2

    def test_a_checkpointed_layer_in_evaluation_is_computed_once(self, rows_computed):
        model, batch = make_model(evaluation_logits=False), make_batch()
        model.gradient_checkpointing_enable()
        computed = rows_computed(model)
        model.eval()
        model(**batch)
        model.bert.train()  # the layer's own mode counts, not the model's
        model(**batch).loss.backward()
        every = batch["input_ids"].numel()
        assert computed == [len(rows_read(batch)), every, every]

    def test_a_layer_compiled_by_itself_computes_all_rows(self, rows_computed):
        model, batch = make_model(evaluation_logits=False).eval(), make_batch()
        computed = rows_computed(model)
        expected = model(**batch).loss
        model.bert.encoder.layer[-1].compile(backend="eager")
        torch.testing.assert_close(model(**batch).loss, expected)
        assert computed == [len(rows_read(batch)), batch["input_ids"].numel()]
