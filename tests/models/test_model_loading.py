# SPDX-License-Identifier: Apache-2.0
"""Loading and saving: plain checkpoints, our own, and what the native classes make of them."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from tiny_models import VOCABULARY, encoder_inputs, make_batch, make_model, one_thread, same, tiny_config  # noqa: F401
from torch import nn
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForQuestionAnswering, BertForMaskedLM

from spanbert_ext.models.pretraining import SpanBertForPreTraining


class TestLoading:
    def test_every_sbo_tensor_is_initialised_after_loading_a_plain_bert(self, tmp_path, poisoned):
        plain = BertForMaskedLM(tiny_config())
        plain.save_pretrained(tmp_path)
        model = SpanBertForPreTraining.from_pretrained(tmp_path)
        for name, value in plain.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name
        for name, p in model.sbo.named_parameters():
            kind = (
                "one"
                if name in ("norm1.weight", "norm2.weight")
                else "zero"
                if name.endswith("bias")
                else "normal"
            )
            if kind == "normal":
                assert p.mean().abs() < 0.005 and 0.015 < p.std() < 0.025, name  # initializer_range 0.02
            else:
                assert (p == (1 if kind == "one" else 0)).all(), name
        assert model.masking_step == 0
        assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
        assert torch.isfinite(model(**make_batch()).loss)

    def test_an_encoder_alone_loads_too(self, tmp_path, poisoned):
        encoder = transformers.BertModel(tiny_config())
        encoder.save_pretrained(tmp_path)
        model = SpanBertForPreTraining.from_pretrained(tmp_path)
        assert torch.equal(
            model.bert.encoder.layer[0].output.dense.weight, encoder.encoder.layer[0].output.dense.weight
        )
        assert (model.sbo.bias == 0).all() and (model.cls.predictions.bias == 0).all()

    def test_our_own_checkpoint_is_restored_whole(self, tmp_path, poisoned):
        model = make_model().eval()
        nn.init.normal_(model.sbo.bias)
        model.save_pretrained(tmp_path)
        again = SpanBertForPreTraining.from_pretrained(tmp_path)
        assert same(dict(again.state_dict()), dict(model.state_dict()))
        assert torch.equal(again(**make_batch()).loss, model(**make_batch()).loss)
        assert again.masking_step == 0

    def test_what_we_save_loads_in_the_native_classes(self, tmp_path):
        model, batch = make_model().eval(), make_batch()
        model.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        assert config["architectures"] == ["BertForMaskedLM"] and config["model_type"] == "bert"
        assert "keys_to_ignore_at_inference" not in config
        inputs = encoder_inputs(batch)
        hidden = model.bert(**inputs)[0]
        masked_lm = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
        assert type(masked_lm) is BertForMaskedLM
        assert torch.equal(masked_lm(**inputs).logits, model(**inputs).logits)
        assert torch.equal(AutoModel.from_pretrained(tmp_path).eval()(**inputs)[0], hidden)
        answering = AutoModelForQuestionAnswering.from_pretrained(tmp_path).eval()
        assert torch.equal(answering.bert(**inputs)[0], hidden)
        assert masked_lm.cls.predictions.decoder.weight is masked_lm.bert.embeddings.word_embeddings.weight
        masked_lm.save_pretrained(
            tmp_path / "native"
        )  # the options survive the native classes, the head does not
        back = SpanBertForPreTraining.from_pretrained(tmp_path / "native")
        assert back.config.span_pretraining["position_dim"] == 24 and (back.sbo.bias == 0).all()

    @pytest.mark.parametrize("size", [len(VOCABULARY) + 5, len(VOCABULARY) - 5])
    def test_resizing_takes_the_sbo_bias_along(self, size, tmp_path):
        model = make_model()
        nn.init.normal_(model.sbo.bias)
        old = model.sbo.bias.detach().clone()
        model.resize_token_embeddings(size)
        kept = min(size, len(old))
        assert model.sbo.bias.shape == (size,) and model.sbo.bias.requires_grad
        assert torch.equal(model.sbo.bias[:kept], old[:kept]) and not model.sbo.bias[kept:].any()
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
        batch = make_batch()
        batch["input_ids"].clamp_(max=size - 1)
        batch["labels"].clamp_(max=size - 1)
        model(**batch).loss.backward()
        model.save_pretrained(tmp_path)
        assert SpanBertForPreTraining.from_pretrained(tmp_path).sbo.bias.shape == (size,)

    def test_ids_beyond_the_vocabulary(self):
        batch = make_batch()
        batch["input_ids"][1, 2] = len(VOCABULARY)
        with pytest.raises(IndexError, match=rf"input_ids\[1, 2\] is {len(VOCABULARY)}, but the model has"):
            make_model()(**batch)
