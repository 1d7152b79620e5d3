# SPDX-License-Identifier: Apache-2.0
"""Folders of models with an NSP head: the Auto classes, plain checkpoints, and back."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from pair_samples import pair_batch, pair_model
from tiny_models import encoder_inputs, make_model, one_thread, same, tiny_config  # noqa: F401
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForNextSentencePrediction,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
)

from spanbert_ext import SpanBertForPreTraining
from spanbert_ext.models import pretraining


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model = pair_model().eval()
    nn.init.normal_(model.sbo.bias)
    model.save_pretrained(folder)
    return folder, model


def test_what_we_save_loads_in_the_native_classes(saved):
    folder, model = saved
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BertForPreTraining"] and config["span_pretraining"]["nsp"] is True
    text = encoder_inputs(pair_batch())
    expected = model(**text)
    encoded = model.bert(**text)

    def load(auto):
        return auto.from_pretrained(folder).eval()

    both = load(AutoModelForPreTraining)
    assert type(both) is BertForPreTraining
    found = both(**text)
    assert torch.equal(found.prediction_logits, expected.logits)
    assert torch.equal(found.seq_relationship_logits, expected.seq_relationship_logits)
    encoder = load(AutoModel)(**text)
    assert torch.equal(encoder[0], encoded[0]) and torch.equal(encoder.pooler_output, encoded.pooler_output)
    assert torch.equal(load(AutoModelForMaskedLM)(**text).logits, expected.logits)
    for auto in (AutoModelForNextSentencePrediction, BertForNextSentencePrediction):
        pooler = load(auto).bert(**text).pooler_output
        assert torch.equal(pooler, encoded.pooler_output)
    assert torch.equal(load(AutoModelForQuestionAnswering).bert(**text)[0], encoded[0])
    classifier = load(AutoModelForSequenceClassification)
    assert torch.equal(classifier.bert(**text).pooler_output, encoded.pooler_output)


def test_our_own_checkpoint_is_restored_whole(saved, poisoned):
    folder, model = saved
    config = transformers.AutoConfig.from_pretrained(folder)
    for again in (
        SpanBertForPreTraining.from_pretrained(folder),
        SpanBertForPreTraining.from_pretrained(folder, nsp=True),
        SpanBertForPreTraining.from_pretrained(folder, config=config),
        SpanBertForPreTraining.from_pretrained(folder, config=str(folder)),
        pretraining.BertForSpanSentencePreTraining.from_pretrained(folder),
    ):
        assert type(again) is type(model) is pretraining.BertForSpanSentencePreTraining
        assert same(dict(again.state_dict()), dict(model.state_dict()))
        assert again.config.span_pretraining["nsp"] is True
    assert (
        type(SpanBertForPreTraining(config))
        is type(SpanBertForPreTraining.from_config(config))
        is type(model)
    )


def test_the_head_can_be_left_behind(saved, tmp_path):
    folder, model = saved
    for plain in (
        SpanBertForPreTraining.from_pretrained(folder, nsp=False),
        pretraining.BertForSpanPreTraining.from_pretrained(folder),
    ):
        assert (
            type(plain) is pretraining.BertForSpanPreTraining
            and plain.config.span_pretraining["nsp"] is False
        )
        expected = {name: x for name, x in model.state_dict().items() if name in plain.state_dict()}
        assert same(dict(plain.state_dict()), expected)
    plain.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    assert type(SpanBertForPreTraining.from_pretrained(tmp_path)) is type(plain)


def test_a_published_checkpoint_gives_its_pooler_and_head(tmp_path, poisoned):
    native = BertForPreTraining(tiny_config())
    native.save_pretrained(tmp_path)
    assert type(SpanBertForPreTraining.from_pretrained(tmp_path)) is pretraining.BertForSpanPreTraining
    model = SpanBertForPreTraining.from_pretrained(tmp_path, nsp=True)
    for name, value in native.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert torch.isfinite(model(**pair_batch()).loss)


@pytest.mark.parametrize("make", [BertForMaskedLM, transformers.BertModel, lambda c: make_model()])
def test_what_a_checkpoint_lacks_is_initialised(make, tmp_path, poisoned):
    given = make(tiny_config())
    given.save_pretrained(tmp_path)
    model = SpanBertForPreTraining.from_pretrained(tmp_path, nsp=True)
    head = model.cls.seq_relationship
    weights = [head.weight] + ([] if hasattr(given, "pooler") else [model.bert.pooler.dense.weight])
    for weight in weights:
        assert weight.mean().abs() < 0.01 and 0.01 < weight.std() < 0.03  # initializer_range 0.02
    assert not head.bias.any() and torch.isfinite(model(**pair_batch()).loss)
    if hasattr(given, "pooler"):
        assert torch.equal(model.bert.pooler.dense.weight, given.pooler.dense.weight)


def test_native_classes_keep_the_option(saved, tmp_path):
    """A native model of our folder that is saved again comes back with its NSP head and a new SBO."""
    folder, model = saved
    BertForPreTraining.from_pretrained(folder).save_pretrained(tmp_path)
    back = SpanBertForPreTraining.from_pretrained(tmp_path)
    assert type(back) is type(model) and not back.sbo.bias.any()
    assert torch.equal(back.cls.seq_relationship.weight, model.cls.seq_relationship.weight)


def test_resizing_keeps_the_head():
    model = pair_model()
    before = model.cls.seq_relationship.weight
    model.resize_token_embeddings(model.config.vocab_size + 3)
    assert model.cls.seq_relationship.weight is before and len(model.sbo.bias) == model.config.vocab_size
    model(**pair_batch()).loss.backward()


@pytest.mark.parametrize("value", ["yes", 1])
def test_an_option_that_is_no_bool(value, saved, tmp_path):
    folder, _ = saved
    makers = (
        lambda: SpanBertForPreTraining(tiny_config(), nsp=value),
        lambda: SpanBertForPreTraining.from_config(tiny_config(), nsp=value),
        lambda: SpanBertForPreTraining.from_pretrained(folder, nsp=value),
        lambda: SpanBertForPreTraining(tiny_config(span_pretraining={"nsp": value})),
    )
    for make in makers:
        with pytest.raises(ValueError, match=f"nsp is {value!r}, expected True or False"):
            make()
