# SPDX-License-Identifier: Apache-2.0
"""What the next-sentence prediction refuses, by name."""

from __future__ import annotations

import pytest
import torch
from families_samples import family_config
from pair_samples import pair_batch, pair_model
from tiny_models import encoder_inputs, forgotten, make_model, one_thread, tiny_config  # noqa: F401

from spanbert_ext import SpanBertForPreTraining, register_family
from spanbert_ext.models import pretraining


class TestRefusals:
    @pytest.mark.parametrize("model_type", ["roberta", "albert", "electra", "distilbert"])
    def test_families_without_the_head(self, model_type):
        config = family_config(model_type)
        message = (
            rf"nsp is True, but models of {type(config).__name__} .*'{model_type}'.*have no head.*: bert, "
        )
        for make in (SpanBertForPreTraining, SpanBertForPreTraining.from_config):
            with pytest.raises(ValueError, match=message):
                make(config, nsp=True)

    def test_a_registered_family(self):
        places = {
            "head": "cls",
            "transform": "cls.predictions.transform",
            "decoder": "cls.predictions.decoder",
        }
        register_family("bert", exist_ok=True, **places)
        with pytest.raises(ValueError, match="have no head for the next-sentence prediction"):
            SpanBertForPreTraining(tiny_config(), nsp=True)

    def test_a_class_that_does_not_fit(self):
        with pytest.raises(ValueError, match="nsp is True, but BertForSpanPreTraining is the class without"):
            pretraining.BertForSpanPreTraining(tiny_config(), nsp=True)
        with pytest.raises(
            ValueError, match="nsp is False, but BertForSpanSentencePreTraining is the class with"
        ):
            pretraining.BertForSpanSentencePreTraining(tiny_config(), nsp=False)

    def test_a_model_without_the_head(self):
        for name in ("is_random_next", "next_sentence_label"):
            batch = pair_batch()
            batch[name] = batch.pop("is_random_next")
            with pytest.raises(ValueError, match="is_random_next is given, but the model has no NSP head"):
                make_model()(**batch)

    def test_training_without_pairs(self):
        batch = pair_batch()
        del batch["is_random_next"]
        with pytest.raises(ValueError, match="has no is_random_next.*next_sentence_label.*nsp=False"):
            pair_model()(**batch)

    def test_pairs_without_labels(self):
        model, batch = pair_model(), pair_batch()
        text = encoder_inputs(batch) | {"is_random_next": batch["is_random_next"]}
        with pytest.raises(ValueError, match="is_random_next came without labels"):
            model(**text)
        assert model(**text, return_loss=False).loss is None

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (lambda x: x[:3], ValueError, r"shape \[3\], expected \[8\]"),
            (lambda x: x[:, None], ValueError, r"shape \[8, 1\], expected \[8\]"),
            (lambda x: x.float(), TypeError, "dtype torch.float32, expected int64"),
            (lambda x: x.tolist(), TypeError, "is_random_next is a list"),
            (lambda x: x.to("meta"), ValueError, "is_random_next is on meta, expected cpu as labels"),
            (lambda x: x == 1, TypeError, "dtype torch.bool, expected int64"),
            (lambda x: x.clone().index_fill_(0, torch.tensor(4), 2), IndexError, r"is_random_next\[4\] is 2"),
        ],
    )
    def test_targets_of_another_form(self, change, error, message):
        batch = pair_batch()
        batch["is_random_next"] = change(batch["is_random_next"])
        with pytest.raises(error, match=message):
            pair_model()(**batch)

    def test_two_names_of_one_tensor(self):
        batch = pair_batch()
        with pytest.raises(ValueError, match="two names of one tensor"):
            pair_model()(**batch, next_sentence_label=batch["is_random_next"])

    def test_a_count_that_is_none(self):
        with pytest.raises(ValueError, match="num_nsp_items is -1"):
            pair_model()(**pair_batch(), num_items_in_batch=4, num_nsp_items=-1)
