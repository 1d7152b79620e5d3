# SPDX-License-Identifier: Apache-2.0
"""The model class: how it is made, its options, its copies; unpickled by a fresh process in test_register_family.py."""

from __future__ import annotations

import copy
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
import transformers
from tiny_models import (  # noqa: F401
    make_batch,
    make_model,
    one_thread,
    tiny_config,
)
from transformers import BertForMaskedLM

from spanbert_ext.models import pretraining
from spanbert_ext.models.pretraining import SpanBertForPreTraining


class TestClass:
    def test_all_ways_lead_to_one_class(self, tmp_path):
        config = tiny_config()
        BertForMaskedLM(config).save_pretrained(tmp_path)
        models = [
            SpanBertForPreTraining(config),
            SpanBertForPreTraining.from_config(config),
            SpanBertForPreTraining.from_pretrained(tmp_path),
            SpanBertForPreTraining.from_pretrained(tmp_path, config=config),
        ]
        for model in models:
            assert type(model) is pretraining.BertForSpanPreTraining
            assert isinstance(model, SpanBertForPreTraining) and isinstance(model, BertForMaskedLM)
            assert model.config.span_pretraining["position_slots"] == 20
        assert not hasattr(config, "span_pretraining")  # the caller's configuration stays the caller's
        assert models[2].training is False and models[0].training is True

    def test_native_parameters_are_named_and_initialised_as_in_the_native_class(self):
        torch.manual_seed(3)
        native = BertForMaskedLM(tiny_config()).state_dict()
        ours = make_model(3).state_dict()
        assert {name for name in ours if not name.startswith("sbo.")} == native.keys()
        assert all(torch.equal(ours[name], value) for name, value in native.items())
        assert {name.split(".")[1] for name in ours if name.startswith("sbo.")} == {
            *("position_embeddings", "dense1", "norm1", "dense2", "norm2", "bias")
        }
        wide = SpanBertForPreTraining(tiny_config(initializer_range=0.1)).sbo
        for module in (wide.dense1, wide.dense2, wide.position_embeddings):
            assert 0.09 < module.weight.std() < 0.11  # the configuration's initializer_range

    def test_calls_as_the_native_class_takes_them(self, tmp_path):
        model = make_model()
        model.save_pretrained(tmp_path, True, model.state_dict())  # the third is no push_to_hub
        again = type(model).from_pretrained(tmp_path, code_revision="main", trust_remote_code=False)
        assert type(again) is type(model)
        logits, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
        native = BertForMaskedLM(tiny_config())
        torch.testing.assert_close(
            model.loss_function(logits, labels, 7), native.loss_function(logits, labels, 7)
        )

    def test_unsupported_models_are_refused(self, tmp_path):
        config = transformers.GPT2Config(n_layer=1, n_embd=8, n_head=1)
        for make in (SpanBertForPreTraining, SpanBertForPreTraining.from_config):
            with pytest.raises(
                ValueError,
                match=r"GPT2Config \(model type 'gpt2'\); supported: albert, bert.*yoso.*register_family",
            ):
                make(config)
        config.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="GPT2Config"):
            SpanBertForPreTraining.from_pretrained(tmp_path)

    def test_a_subclass_is_made_of_the_class_for_one_type(self, tmp_path):
        class Wrong(SpanBertForPreTraining):
            pass

        class Mixed(SpanBertForPreTraining, BertForMaskedLM):
            pass

        class Right(pretraining.BertForSpanPreTraining):
            pass

        config = tiny_config()
        BertForMaskedLM(config).save_pretrained(tmp_path)
        for wrong in (Wrong, Mixed):
            said = (
                f"{wrong.__name__} is a subclass .*for BertConfig subclass {pretraining.__name__}.BertForSpan"
            )
            for make in (wrong, wrong.from_config):
                with pytest.raises(TypeError, match=f"{said}PreTraining$"):
                    make(config)
                with pytest.raises(TypeError, match=f"{said}SentencePreTraining$"):
                    make(config, nsp=True)
            with pytest.raises(TypeError, match=said):
                wrong.from_pretrained(tmp_path)
        for model in (Right(config), Right.from_config(config), Right.from_pretrained(tmp_path)):
            assert type(model) is Right and model(**make_batch()).loss.isfinite()

    def test_options_live_in_the_configuration(self, tmp_path):
        options = {
            "nsp": False,
            "position_dim": 12,
            "position_slots": 7,
            "sbo_weight": 0.5,
            "label_smoothing": 0.1,
            "skip_unread_rows": False,
            "count_rows": False,
            "assume_all_text": True,
            "evaluation_loss": "sum",
            "evaluation_logits": False,
            "impl": "reference",
        }
        model = SpanBertForPreTraining.from_config(tiny_config(), **options)
        assert model.config.span_pretraining == options
        assert model.sbo.position_embeddings.weight.shape == (7, 12)
        model.save_pretrained(tmp_path)
        assert SpanBertForPreTraining.from_pretrained(tmp_path).config.span_pretraining == options
        changed = SpanBertForPreTraining.from_pretrained(
            tmp_path, sbo_weight=2.0, attn_implementation="eager"
        )
        assert changed.config.span_pretraining == options | {"sbo_weight": 2.0}
        assert changed.config._attn_implementation == "eager"
        given = SpanBertForPreTraining.from_pretrained(tmp_path, config=model.config, label_smoothing=0.2)
        assert given.config.span_pretraining == options | {"label_smoothing": 0.2}

    @pytest.mark.parametrize(
        "option",
        [
            {"position_dim": 0},
            {"position_dim": True},
            {"position_slots": 1.5},
            {"position_slots": "20"},
            *({"sbo_weight": x} for x in (-1.0, math.inf, math.nan, True, "1", 10**400, torch.tensor(0.5))),
            *(
                {"label_smoothing": x}
                for x in (1.0, -0.1, math.nan, False, "0.1", [0.1], np.array([0.1, 0.2]))
            ),
            {"skip_unread_rows": "yes"},
            {"count_rows": 1},
            {"nsp": 1},
            {"assume_all_text": "no"},
            {"impl": "eager"},
            {"impl": True},
            {"evaluation_loss": np.array(["mlm", "sum"])},
            {"evaluation_logits": np.array(["auto", "auto"])},
        ],
    )
    def test_options_out_of_range(self, option):
        with pytest.raises(ValueError, match=f"^{next(iter(option))} is .*, expected "):
            SpanBertForPreTraining(tiny_config(), **option)

    @pytest.mark.parametrize(
        ("name", "value", "plain"),
        [
            ("sbo_weight", np.float32(0.5), 0.5),
            ("sbo_weight", 2, 2.0),
            ("sbo_weight", Fraction(1, 4), 0.25),
            ("label_smoothing", np.float64(0.1), 0.1),
            ("label_smoothing", np.int64(0), 0.0),
            ("position_dim", np.int64(12), 12),
            ("position_slots", np.uint8(7), 7),
        ],
    )
    def test_numbers_of_every_kind_are_saved(self, name, value, plain, tmp_path):
        model = SpanBertForPreTraining(tiny_config(), **{name: value})
        model.save_pretrained(tmp_path)
        again = SpanBertForPreTraining.from_pretrained(tmp_path)
        for options in (model.config.span_pretraining, again.config.span_pretraining):
            assert options[name] == plain and type(options[name]) is type(plain)

    def test_copies(self):
        model = make_model().eval()
        batch = make_batch()
        expected = model(**batch)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert type(twin) is type(model)
            assert twin.cls.predictions.decoder.weight is twin.bert.embeddings.word_embeddings.weight
            assert torch.equal(twin(**batch).loss, expected.loss)
        other = make_model(seed=1).eval()
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(**batch).loss, expected.loss)

    def test_names_that_are_no_class(self):
        with pytest.raises(AttributeError, match="Nonsense"):
            pretraining.NonsenseForSpanPreTraining  # noqa: B018
