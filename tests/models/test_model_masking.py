# SPDX-License-Identifier: Apache-2.0
"""Masks made in forward, on the device of the text."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from tiny_models import VOCABULARY, make_batch, make_model, one_thread, tiny_texts, tiny_tokenizer  # noqa: F401

from spanbert_ext import DataCollatorForSpanMasking
from spanbert_ext.masking.masker import SpanMasker
from spanbert_ext.models.pretraining import SpanBertForPreTraining


class TestMaskingInForward:
    @pytest.fixture
    def text(self) -> dict:
        tokenizer = tiny_tokenizer()
        return dict(tokenizer(tiny_texts(8), padding=True, return_tensors="pt"))

    @pytest.fixture
    def seen(self, monkeypatch):
        """What the encoder gets to read."""
        read = []

        def watch(model):
            model.bert.register_forward_pre_hook(
                lambda module, args, kwargs: read.append(kwargs["input_ids"].clone()), with_kwargs=True
            )
            return read

        return watch

    def test_columns_that_tell_the_tokens_are_refused(self, text):
        model = make_model()
        model.set_masker(SpanMasker.from_tokenizer(tiny_tokenizer()))
        with pytest.raises(ValueError, match="input_shape_ids is made of the tokens"):
            model(**text, input_shape_ids=text["input_ids"])

    def test_what_is_no_masker_or_seed_is_named(self):
        model = make_model()
        with pytest.raises(TypeError, match="masker is .*; expected a SpanMasker or None"):
            model.set_masker(DataCollatorForSpanMasking(tiny_tokenizer()))
        with pytest.raises(TypeError, match="seed is 'a'"):
            model.set_masker(SpanMasker.from_tokenizer(tiny_tokenizer()), seed="a")
        assert model.masker is None

    def test_steps_differ_and_evaluation_does_not(self, text, seen):
        model = make_model()
        model.set_masker(SpanMasker.from_tokenizer(tiny_tokenizer()), seed=5)
        read = seen(model)
        for _ in range(3):
            assert model(**text).loss > 0
        assert model.masking_step == 3
        model.eval()
        first = model(**text)
        assert torch.equal(first.loss, model(**text).loss)
        assert model.masking_step == 3
        masker = SpanMasker.from_tokenizer(tiny_tokenizer())
        for ids, epoch in zip(read, (0, 1, 2, 0, 0), strict=True):
            masked = masker(text["input_ids"], text["attention_mask"], seed=5, epoch=epoch)
            assert torch.equal(ids, masked.input_ids)
        assert not torch.equal(read[0], read[1])

    def test_columns_for_masking_are_heard(self, text, seen):
        model = make_model()
        model.set_masker(SpanMasker.from_tokenizer(tiny_tokenizer()))
        read = seen(model)
        epoch = torch.full((8,), 4)
        model(**text, sample_epoch=epoch)
        model(**text, sample_epoch=epoch)
        model(**text, sample_epoch=epoch, sample_ids=torch.arange(8))
        special = torch.ones_like(text["input_ids"])
        special[:, 3:6] = 0
        output = model(**text, sample_epoch=epoch, special_tokens_mask=special)
        assert torch.equal(read[0], read[1]) and not torch.equal(read[0], read[2])
        assert model.masking_step == 0
        changed = (read[3] != text["input_ids"]).nonzero()[:, 1]
        assert output.mlm_count == 8 and set(changed.tolist()) <= {3, 4, 5}

    def test_plain_logits_on_request_and_without_a_masker(self, text):
        model = make_model().eval()
        plain = model(**text)
        model.set_masker(SpanMasker.from_tokenizer(tiny_tokenizer()))
        asked = model(**text, return_loss=False)
        assert asked.loss is None and torch.equal(asked.logits, plain.logits)
        assert model(**text).logits is None
        batch = make_batch()
        labelled = model(**batch)
        model.set_masker(None)
        assert torch.equal(model(**batch).loss, labelled.loss)  # labels: nothing is masked again
        assert model(**text).loss is None

    def test_maskers_that_do_not_fit(self):
        masker = SpanMasker.from_tokenizer(tiny_tokenizer())
        small = make_model()
        small.resize_token_embeddings(20)
        with pytest.raises(ValueError, match=rf"{len(VOCABULARY)} ids, the model 20"):
            small.set_masker(masker)
        with pytest.raises(ValueError, match="20 position slots, the model has 5"):
            make_model(position_slots=5).set_masker(masker)

    def test_a_model_with_a_masker_is_copied_and_saved(self, text, tmp_path):
        model = make_model()
        model.set_masker(SpanMasker.from_tokenizer(tiny_tokenizer()))
        model(**text)
        twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
        assert torch.equal(twin(**text).loss, model(**text).loss) and twin.masking_step == 2
        model.save_pretrained(tmp_path)
        assert SpanBertForPreTraining.from_pretrained(tmp_path).masker is None

    def test_calls_of_a_compiled_model_differ(self, text):
        model = make_model()
        model.set_masker(SpanMasker.from_tokenizer(tiny_tokenizer()))
        eager = [model(**text).loss.item() for _ in range(3)]
        model.masking_step.zero_()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        assert [compiled(**text).loss.item() for _ in range(3)] == pytest.approx(eager, rel=1e-5)
        assert len(set(eager)) == 3 and model.masking_step == 3
