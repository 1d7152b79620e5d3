# SPDX-License-Identifier: Apache-2.0
"""The next-sentence prediction: the native loss, which rows take part, and what people do to a model."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from families_samples import family_config
from pair_samples import pair_batch, pair_model, pair_rows
from peft import LoraConfig, get_peft_model
from tiny_models import (  # noqa: F401
    INDICES,
    assert_close,
    encoder_inputs,
    gradients,
    make_model,
    one_thread,
    tiny_config,
    tiny_tokenizer,
)
from torch import nn
from transformers import AutoModelForPreTraining, BertForPreTraining

from spanbert_ext import DataCollatorForSpanMasking, SpanBertForPreTraining, SpanMasker
from spanbert_ext.models import fused_path, pretraining, read_rows
from spanbert_ext.models.families import FAMILIES
from spanbert_ext.models.native_classes import supported_types
from spanbert_ext.models.next_sentence import next_sentence_loss

FAMILIES_WITH_NSP = [name for name in supported_types() if FAMILIES[name].nsp_head is not None]


def native_of(model: SpanBertForPreTraining) -> nn.Module:
    native = model.native_class(model.config).to(model.dtype).train(model.training)
    missing, unexpected = native.load_state_dict(model.state_dict(), strict=False)
    assert not missing and all(name.startswith("sbo.") for name in unexpected)
    return native


def labelled(batch: dict) -> dict:
    """What the native class takes, but the pairs' column."""
    return {**encoder_inputs(batch), "labels": batch["labels"]}


class TestNativeClass:
    @pytest.mark.parametrize("model_type", FAMILIES_WITH_NSP)
    def test_loss_and_gradients_are_the_native_ones(self, model_type):
        torch.manual_seed(0)
        model = SpanBertForPreTraining(family_config(model_type), position_dim=24, nsp=True).double()
        native, batch = native_of(model), labelled(pair_batch())
        if model_type == "fnet":  # which has no mask
            del batch["attention_mask"]
        pairs = pair_batch()["is_random_next"]
        for skip in (True, False):
            model.config.span_pretraining["skip_unread_rows"] = skip
            model.zero_grad()
            native.zero_grad()
            found = model(**batch, is_random_next=pairs)
            expected = native(**batch, next_sentence_label=pairs)
            torch.testing.assert_close(found.loss, expected.loss, rtol=1e-12, atol=0)
            torch.testing.assert_close(
                found.seq_relationship_logits, expected.seq_relationship_logits, rtol=1e-10, atol=1e-12
            )
            found.loss.backward()
            expected.loss.backward()
            ours = {name: x for name, x in gradients(model).items() if not name.startswith("sbo.")}
            assert_close(ours, gradients(native), 1e-10)
            assert ours["cls.seq_relationship.weight"].abs().max() > 1e-4
            pooled = [x.abs().max() for name, x in ours.items() if "pooler" in name and "weight" in name]
            assert len(pooled) == 1 and pooled[0] > 1e-6

    def test_which_types_have_the_head(self):
        assert {"bert", "big_bird", "ernie", "fnet", "megatron-bert"} >= {*FAMILIES_WITH_NSP} >= {"bert"}

    @pytest.mark.parametrize("hidden", [False, True])
    def test_outputs_without_labels_and_tuples(self, hidden):
        model, batch = pair_model().eval(), pair_batch()
        native = native_of(model)
        options = {"output_hidden_states": hidden}
        text = encoder_inputs(batch)
        found, expected = model(**text, **options), native(**text, **options)
        assert torch.equal(found.prediction_logits, expected.prediction_logits)
        assert torch.equal(found.seq_relationship_logits, expected.seq_relationship_logits)
        given = labelled(batch) | {"next_sentence_label": batch["is_random_next"], "return_dict": False}
        model.config.span_pretraining["evaluation_loss"] = "sum"
        for inputs in (text | {"return_dict": False}, given):
            found, expected = model(**inputs, **options), native(**inputs, **options)
            assert type(found) is tuple and len(found) == len(expected) == ("labels" in inputs) + 2 + hidden
            torch.testing.assert_close(found, expected)

    def test_state_and_initial_values_are_the_native_ones(self):
        torch.manual_seed(3)
        native = BertForPreTraining(tiny_config()).state_dict()
        ours = make_model(3, nsp=True).state_dict()
        assert {name for name in ours if not name.startswith("sbo.")} == native.keys()
        assert all(torch.equal(ours[name], value) for name, value in native.items())
        assert not any("pooler" in name or "seq" in name for name in make_model().state_dict())


class TestLoss:
    def test_by_hand(self):
        logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(3)], [5.0, -5.0]]).double()
        logits.requires_grad_()
        pairs = torch.tensor([1, 0, 0, -100])
        found = next_sentence_loss(logits, pairs, torch.tensor(40))
        nll = [math.log(2), math.log(4 / 3), math.log(4)]
        assert found.loss.item() == pytest.approx(sum(nll) / 3) == found.nsp_loss.item()
        assert found.nsp_count == 3 and found.nsp_accuracy.item() == pytest.approx(1 / 3)
        assert found.nsp_prediction.tolist() == [0, 0, 1, -1]
        expected = [[nll[0], 1, 0, 1], [nll[1], 1, 1, 0], [nll[2], 1, 0, 0], [0, 0, 0, 0]]
        torch.testing.assert_close(found.nsp_statistics, torch.tensor(expected).double())
        found.loss.backward()
        expected = torch.tensor([[0.5, -0.5], [-0.25, 0.25], [-0.75, 0.75], [0, 0]]).double() / 3
        torch.testing.assert_close(logits.grad, expected)
        assert not found.nsp_statistics.requires_grad and not found.nsp_loss.requires_grad

    @pytest.mark.parametrize(
        ("counts", "weight"),
        [
            ({"num_items_in_batch": 100, "num_nsp_items": torch.tensor(12)}, 3 / 12),
            ({"num_items_in_batch": torch.tensor(100)}, 40 / 100),
            ({"num_items_in_batch": 0, "num_nsp_items": 0}, 3),
        ],
    )
    def test_counts_of_an_update(self, counts, weight):
        logits, pairs = torch.randn(4, 2), torch.tensor([1, 0, 0, -1])
        found = next_sentence_loss(logits, pairs, torch.tensor(40), **counts)
        torch.testing.assert_close(found.loss, F.cross_entropy(logits[:3], pairs[:3]) * weight)
        torch.testing.assert_close(found.nsp_loss, F.cross_entropy(logits[:3], pairs[:3]))

    @pytest.mark.parametrize("rows", [0, 3])
    def test_no_target(self, rows):
        logits = torch.randn(rows, 2, requires_grad=True)
        found = next_sentence_loss(logits, torch.full((rows,), -100), torch.tensor(0))
        found.loss.backward()
        assert found.loss == 0 == found.nsp_loss and found.nsp_count == 0 and found.nsp_accuracy == 0
        assert logits.grad.shape == (rows, 2) and not logits.grad.any()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision_is_summed_in_float32(self, dtype):
        logits = (8 * torch.randn(2048, 2)).to(dtype)
        pairs = torch.randint(0, 2, (2048,))
        found = next_sentence_loss(logits, pairs, torch.tensor(1))
        assert found.loss.dtype == found.nsp_statistics.dtype == torch.float32
        expected = F.cross_entropy(logits.double(), pairs)
        torch.testing.assert_close(found.loss.double(), expected, rtol=1e-6, atol=0)

    def test_a_target_that_nobody_checked_is_nan(self, monkeypatch):
        monkeypatch.setattr("spanbert_ext.models.next_sentence.may_read_values", lambda x: False)
        batch = pair_batch()
        batch["is_random_next"][2] = 2
        assert pair_model()(**batch).loss.isnan()

    def test_the_parts_of_the_loss(self):
        model, batch = pair_model(sbo_weight=0.5), pair_batch()
        found = model(**batch)
        parts = found.mlm_loss + 0.5 * found.sbo_loss + found.nsp_loss
        torch.testing.assert_close(found.loss.detach(), parts)
        model.eval()
        evaluated = model(**batch)
        torch.testing.assert_close(evaluated.loss, evaluated.mlm_loss)
        torch.testing.assert_close(evaluated.nsp_loss, found.nsp_loss)
        model.config.span_pretraining["evaluation_loss"] = "sum"
        torch.testing.assert_close(model(**batch).loss, parts)

    def test_smoothing_leaves_it_alone(self):
        model, batch = pair_model(label_smoothing=0.2), pair_batch()
        found = model(**batch)
        rows = batch["is_random_next"] >= 0
        expected = F.cross_entropy(found.seq_relationship_logits[rows], batch["is_random_next"][rows])
        torch.testing.assert_close(found.nsp_loss, expected.detach())

    def test_without_pairs_it_evaluates_the_others(self):
        model, batch = pair_model().eval(), pair_batch()
        expected = model(**batch)
        del batch["is_random_next"]
        found = model(**batch)
        assert torch.equal(found.mlm_loss, expected.mlm_loss) and found.nsp_loss is None
        assert "nsp_statistics" not in found

    def test_masks_made_in_forward(self):
        model, batch = pair_model(), pair_batch()
        model.set_masker(SpanMasker.from_tokenizer(tiny_tokenizer()))
        found = model(**encoder_inputs(batch), is_random_next=batch["is_random_next"])
        assert found.nsp_count == (batch["is_random_next"] >= 0).sum() and found.mlm_count > 0
        assert found.loss > found.mlm_loss + found.sbo_loss

    def test_spans_stay_in_one_text_of_a_pair(self):
        batch = pair_batch(40)
        middle = (batch["token_type_ids"] == 0).mul(batch["attention_mask"]).sum(1)[:, None] - 1  # [B, 1]
        left, right, masked = (
            batch[name] for name in ("left_boundary", "right_boundary", "masked_positions")
        )
        live = left >= 0
        assert live.any() and ((right < middle) | (left > middle))[live].all()
        assert (masked != middle).all()


@pytest.fixture(params=["counted", "bounded"])
def way(request, monkeypatch):
    """Rows counted on the CPU, or as many as there could be, as on a GPU."""
    if request.param == "bounded":
        monkeypatch.setattr(read_rows, "may_read_values", lambda x: False)
    return request.param


@pytest.mark.parametrize("objective", ["spans", "labels alone"])
def test_skipped_rows_change_nothing(way, objective, rows_computed):
    batch = pair_batch()
    if objective == "labels alone":
        batch = labelled(batch) | {"is_random_next": batch["is_random_next"]}
    outputs, grads, counts = [], [], []
    for skip in (True, False):
        model = pair_model(skip_unread_rows=skip).double()
        computed = rows_computed(model)
        outputs.append(model(**batch))
        outputs[-1].loss.backward()
        grads.append(gradients(model))
        counts += computed
    for name in ("loss", "nsp_loss", "nsp_statistics"):
        torch.testing.assert_close(outputs[0][name], outputs[1][name], rtol=1e-12, atol=0)
    assert_close(*grads, 1e-10)
    assert counts[0] < counts[1] == batch["labels"].numel()


class TestModules:
    """Whatever is done to the modules, the loss is what calling them gives."""

    @pytest.fixture(autouse=True)
    def _warned(self, monkeypatch):
        monkeypatch.setattr(fused_path, "_warned", set())

    def loss(self, model: nn.Module, training: bool = True) -> torch.Tensor:
        return model.train(training)(**pair_batch(), **({} if training else {"return_logits": True})).loss

    @pytest.mark.parametrize("path", ["cls", "cls.predictions", "cls.seq_relationship", "bert.pooler"])
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.filterwarnings("ignore:.*has hooks")
    def test_hooks_see_each_call_and_change_nothing(self, path, training):
        model = pair_model().double()
        expected, calls = self.loss(model, training), []
        model.get_submodule(path).register_forward_hook(lambda *args: calls.append(args[0]))
        torch.testing.assert_close(self.loss(model, training), expected, rtol=1e-12, atol=0)
        assert len(calls) == 1

    @pytest.mark.filterwarnings("ignore:.*has hooks")
    def test_a_hook_that_changes_the_result_counts(self):
        expected = pair_model().double()
        expected.cls.seq_relationship.weight.data *= 3
        expected.cls.seq_relationship.bias.data += 1
        changed, around = pair_model().double(), pair_model().double()
        changed.cls.seq_relationship.register_forward_hook(lambda module, inputs, y: 3 * y + 1)
        around.cls.register_forward_hook(lambda module, inputs, y: (y[0], 3 * y[1] + 1))
        for model in (changed, around):
            found = self.loss(model)
            torch.testing.assert_close(found, self.loss(expected), rtol=1e-12, atol=0)
            assert found != self.loss(pair_model().double())

    def test_adapters_learn_both_heads(self):
        options = LoraConfig(target_modules=["seq_relationship", "pooler.dense"], init_lora_weights=False)
        model = get_peft_model(pair_model().double(), options).double()
        model(**pair_batch()).loss.backward()
        learnt = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert len(learnt) == 4 and all("lora" in name for name in learnt)


class TestCopies:
    def test_copies_and_pickles(self, monkeypatch):
        model, batch = pair_model(), pair_batch()
        expected = model(**batch).loss
        assert type(model) is pretraining.BertForSpanSentencePreTraining
        blob = pickle.dumps(model)
        for twin in (copy.deepcopy(model), pickle.loads(blob)):
            assert type(twin) is type(model) and torch.equal(twin(**batch).loss, expected)
        monkeypatch.delattr(pretraining, "BertForSpanSentencePreTraining")  # as in a process that built none
        again = pickle.loads(blob)
        assert type(again).__name__ == "BertForSpanSentencePreTraining"
        assert isinstance(again, BertForPreTraining) and torch.equal(again(**batch).loss, expected)

    @pytest.mark.parametrize("model_type", FAMILIES_WITH_NSP)
    def test_class_names_lead_back_to_the_class(self, model_type):
        config = family_config(model_type)
        made, plain = (SpanBertForPreTraining.made_for(type(config), nsp) for nsp in (True, False))
        assert made is not plain and made.native_class is AutoModelForPreTraining._model_mapping[type(config)]
        assert getattr(pretraining, made.__name__) is made and getattr(pretraining, plain.__name__) is plain

    def test_names_that_are_no_class(self):
        for name in ("RobertaForSpanSentencePreTraining", "NonsenseForSpanSentencePreTraining"):
            with pytest.raises(AttributeError, match=name):
                getattr(pretraining, name)


def test_it_learns_more_than_the_majority():
    """Which verb B has says whether it is random; in the evaluation some of the verbs are masked."""
    rows = pair_rows(96, words=(1, 1))
    collator = DataCollatorForSpanMasking(tiny_tokenizer())
    held_out = collator.evaluation()(rows)
    pairs = held_out["is_random_next"]
    majority = (pairs == 1).sum() / (pairs >= 0).sum()
    assert 0.5 < majority < 0.75
    torch.manual_seed(0)
    config = tiny_config(num_hidden_layers=1, initializer_range=0.1)
    model = SpanBertForPreTraining(config, position_dim=24, nsp=True, evaluation_logits=False)
    before = model.eval()(**held_out)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=0.01)
    for step in range(100):
        model(**collator(rows[step % 3 :: 3])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = model.eval()(**held_out)
    assert after.nsp_accuracy > majority + 0.1 and after.nsp_loss < before.nsp_loss - 0.2
    assert after.mlm_loss < before.mlm_loss - 1
