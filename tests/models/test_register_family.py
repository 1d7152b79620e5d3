# SPDX-License-Identifier: Apache-2.0
"""Which models are supported, refused with a reason, or given by the user."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import own_encoder
import pytest
import torch
import transformers
from families_samples import family_config
from own_encoder import PATHS, OwnConfig, OwnForMaskedLM
from test_family_heads import assert_native  # noqa: F401
from test_fused_path import AlongTokens, warned  # noqa: F401
from tiny_models import (  # noqa: F401
    INDICES,
    assert_close,
    forgotten,
    gradients,
    make_batch,
    make_model,
    one_thread,
    tiny_config,
)
from torch import nn
from torch.nn import functional as F

import spanbert_ext
from spanbert_ext import SpanBertForPreTraining, register_family


def own_model(**options) -> SpanBertForPreTraining:
    register_family(OwnForMaskedLM, **({"eps": "norm_eps"} | PATHS | options))
    training = {"evaluation_loss": "sum", "evaluation_logits": False}  # in eval() for want of dropout alone
    return SpanBertForPreTraining(OwnConfig(), position_dim=24, **training).double().eval()


def given(batch: dict, *names: str) -> dict:
    return {name: batch[name] for name in ("input_ids", "labels", *names)}


def loss_by_calling(model: nn.Module, batch: dict) -> torch.Tensor:
    masked, left, right = (batch[name] for name in INDICES)
    logits = model.native_class.forward(model, batch["input_ids"]).logits
    x = model.encoder(batch["input_ids"])[0]
    row, entry = (left >= 0).nonzero(as_tuple=True)
    masked, left, right, sbo = masked[row, entry], left[row, entry], right[row, entry], model.sbo
    h = torch.cat([x[row, left], x[row, right], sbo.position_embeddings(masked - left - 1)], dim=-1)
    h = sbo.norm2(F.gelu(sbo.dense2(sbo.norm1(F.gelu(sbo.dense1(h))))))
    scores = h @ model.get_output_embeddings().weight.T + sbo.bias
    mlm = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    return mlm + F.cross_entropy(scores, batch["labels"][row, masked])


def assert_right(model: nn.Module) -> None:
    batch, found = make_batch(4), []
    for loss in (loss_by_calling(model, batch), model(**given(batch, *INDICES)).loss):
        model.zero_grad()
        loss.backward()
        found.append((loss.detach(), gradients(model)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-9, atol=0)
    assert_close(found[0][1], found[1][1], 1e-9)


class TestRegistered:
    @pytest.mark.parametrize("head", ["head", None])
    def test_the_numbers_are_the_native_ones(self, head, warned):  # noqa: F811
        model = own_model(head=head)
        assert type(model).__name__ == "Own_own_encoder_ForSpanPreTraining"
        assert model.sbo.norm1.eps == 3e-6
        assert_right(model)
        batch = make_batch(4)
        # a tokenizer's columns for which this encoder has no argument
        output = model(**{name: batch[name] for name in ("input_ids", "token_type_ids", "attention_mask")})
        assert torch.equal(output.logits, model.native_class.forward(model, batch["input_ids"]).logits)
        assert not warned

    @pytest.mark.parametrize("path", ["head", "head.transform", "head.transform.dense"])
    def test_what_is_done_to_a_module_later_is_seen(self, path, warned):  # noqa: F811
        model = own_model()
        model.get_submodule(path).register_forward_hook(
            lambda module, inputs, output: output * torch.sigmoid(output.mean(-2, keepdim=True))
        )
        assert_right(model)
        assert any(text.startswith(f"{path} ") for text in warned)
        model = own_model(exist_ok=True)
        model.head.transform.dense = AlongTokens(model.head.transform.dense)
        assert_right(model)

    def test_a_transform_that_mixes_positions(self, warned):  # noqa: F811
        model = own_model(row_wise=False)
        model.head.transform.forward = own_encoder.OwnTransform.forward.__get__(model.head.transform)
        assert_right(model)
        assert any("head.transform" in text for text in warned)

    def test_folders_resizing_and_copies(self, tmp_path):
        model, batch = own_model(), make_batch(4)
        nn.init.normal_(model.sbo.bias)
        expected = model(**given(batch, *INDICES)).loss
        model.save_pretrained(tmp_path)
        again = SpanBertForPreTraining.from_pretrained(tmp_path).eval()
        assert type(again) is type(model)
        torch.testing.assert_close(again(**given(batch, *INDICES)).loss, expected)
        native = OwnForMaskedLM.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(native(batch["input_ids"]).logits, model(batch["input_ids"]).logits)
        native.save_pretrained(tmp_path / "native")
        fresh = SpanBertForPreTraining.from_pretrained(tmp_path / "native")
        assert 0.015 < fresh.sbo.dense1.weight.std() < 0.025  # its _init_weights knows no Linear
        twin = pickle.loads(pickle.dumps(model))
        torch.testing.assert_close(twin(**given(batch, *INDICES)).loss, expected)
        model.resize_token_embeddings(45, mean_resizing=False)
        assert model.sbo.bias.shape == (45,) and model.head.decoder.weight is model.encoder.embed.weight

    def test_a_fresh_process_unpickles(self, tmp_path):
        """Our own class without more; a registered one after it has been registered."""
        torch.save(make_model(), tmp_path / "bert.pt")
        torch.save(own_model(), tmp_path / "model.pt")
        script = (
            "import sys, torch\n"
            "model = torch.load(sys.argv[2], weights_only=False)\n"
            "print(type(model).__name__, type(model).__module__)\n"
            "import spanbert_ext, own_encoder\n"
            "spanbert_ext.SpanBertForPreTraining\n"
            "names = {name.rpartition('.modeling_')[2] for name in sys.modules if '.modeling_' in name}\n"
            "print(names & {'roberta', 'distilbert', 'modernbert', 'xlm'})\n"
            "try:\n    torch.load(sys.argv[1], weights_only=False)\n"
            "except AttributeError as error:\n    print('Own_own_encoder_ForSpanPreTraining' in str(error))\n"
            "spanbert_ext.register_family(own_encoder.OwnForMaskedLM, **own_encoder.PATHS)\n"
            "model = torch.load(sys.argv[1], weights_only=False)\n"
            "print(model(torch.tensor([[7, 8, 9]])).logits.shape)\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "model.pt"), str(tmp_path / "bert.pt")]
        tests = str(Path(own_encoder.__file__).parent)
        environment = {"PYTHONPATH": f"{tests}:{Path(spanbert_ext.__file__).parent.parent}"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert done.stdout.splitlines() == [
            "BertForSpanPreTraining spanbert_ext.models.pretraining",
            *("set()", "True", "torch.Size([1, 3, 38])"),
        ]

    def test_a_type_of_transformers_under_other_paths(self):
        register_family("funnel", decoder="lm_head")
        config = transformers.FunnelConfig(
            vocab_size=38, d_model=32, n_head=2, d_head=16, d_inner=64, block_sizes=[1], num_decoder_layers=1
        )
        model = SpanBertForPreTraining(config, position_dim=24).eval()
        batch = make_batch(4)
        native = model.native_class.forward(model, batch["input_ids"]).logits
        torch.testing.assert_close(model(batch["input_ids"]).logits, native)

    def test_replacing_a_family(self):
        bert = SpanBertForPreTraining(tiny_config())
        paths = {
            "head": "cls",
            "transform": "cls.predictions.transform",
            "decoder": "cls.predictions.decoder",
        }
        with pytest.raises(ValueError, match="'bert' is supported already; exist_ok"):
            register_family("bert", **paths)
        register_family("bert", **paths, eps=1e-3, exist_ok=True)
        model = SpanBertForPreTraining(tiny_config())
        assert type(model) is not type(bert) and model.sbo.norm1.eps == 1e-3
        assert [path for path, _ in model.head_shape.around] == ["cls", "cls.predictions"]


class TestArguments:
    @pytest.mark.parametrize(
        ("change", "error", "match"),
        [
            ({"decoder": "head decoder"}, TypeError, "decoder is 'head decoder', expected a dotted path"),
            ({"transform": [3]}, TypeError, "transform is 3"),
            ({"transform": None}, TypeError, "transform is None"),
            ({"head": "heads"}, ValueError, "decoder is 'head.decoder', expected a path below head, 'heads'"),
            ({"eps": None}, TypeError, "eps is None"),
        ],
    )
    def test_of_another_kind(self, change, error, match):
        with pytest.raises(error, match=match):
            register_family(OwnForMaskedLM, **(PATHS | change))

    def test_a_transform_that_is_not_the_whole_of_it(self):
        model = own_model(transform=())
        batch = make_batch(4)
        with pytest.raises(ValueError, match="head makes other logits .* than head.decoder behind"):
            model(**given(batch, *INDICES))

    def test_an_eps_that_the_configuration_lacks(self):
        with pytest.raises(ValueError, match="its configuration has no nope"):
            own_model(eps="nope")

    def test_models_of_another_kind(self):
        with pytest.raises(TypeError, match="model is 3"):
            register_family(3, **PATHS)
        with pytest.raises(ValueError, match="'own-encoder': give the native class"):
            register_family(OwnConfig, **PATHS)
        with pytest.raises(ValueError, match="no model type"):
            register_family(type("Nameless", (OwnForMaskedLM,), {"config_class": None}), **PATHS)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"transform": "head.dense"}, "OwnForMaskedLM .* has no module head.dense"),
            (
                {"decoder": "head.transform", "transform": ()},
                r"get_output_embeddings\(\) is not head.transform",
            ),
        ],
    )
    def test_paths_that_lead_elsewhere(self, change, match):
        with pytest.raises(ValueError, match=match):
            own_model(**change)

    def test_heads_that_hold_more_than_the_decoder(self):
        class Biased(own_encoder.OwnHead):
            def __init__(self, config):
                super().__init__(config)
                self.bias = nn.Parameter(torch.zeros(config.vocab_size))

        class Beside(OwnForMaskedLM):
            def __init__(self, config):
                super().__init__(config)
                self.head = Biased(config)

        class Narrow(OwnForMaskedLM):
            def get_output_embeddings(self):
                return self.head.transform.dense

        register_family(Beside, **PATHS)
        with pytest.raises(ValueError, match="head.bias has an element for each word"):
            SpanBertForPreTraining(OwnConfig())
        register_family(Narrow, decoder="head.transform.dense", exist_ok=True)
        with pytest.raises(ValueError, match=r"has shape \[32, 32\], expected \[V, D\] with V = 38"):
            SpanBertForPreTraining(OwnConfig())


class TestRefused:
    """Heads whose logits do not come from the matrix of get_output_embeddings()."""

    @pytest.mark.parametrize("model_type", ["deberta", "deberta-v2"])
    def test_new_deberta(self, model_type, tmp_path):
        config = family_config(model_type, legacy=False)
        with pytest.raises(
            ValueError, match="legacy=False its logits come from the embedding.*config.legacy = True"
        ):
            SpanBertForPreTraining(config)
        config.save_pretrained(tmp_path)
        transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="legacy=False"):
            SpanBertForPreTraining.from_pretrained(tmp_path)
        register_family(
            model_type, decoder="lm_predictions.lm_head.dense", head="lm_predictions", exist_ok=True
        )
        with pytest.raises(ValueError, match=r"has shape \[32, 32\], expected \[V, D\]"):
            SpanBertForPreTraining(config)

    @pytest.mark.parametrize("model_type", ["xlm", "flaubert"])
    def test_adaptive_softmax(self, model_type):
        config = family_config(model_type, asm=True, asm_cutoffs=[10, 20])
        with pytest.raises(ValueError, match="asm=True"):
            SpanBertForPreTraining(config)

    @pytest.mark.parametrize("model_type", ["esm", "mobilebert", "ultrabert"])
    def test_types_without_a_row(self, model_type):
        if model_type not in transformers.models.auto.configuration_auto.CONFIG_MAPPING:
            pytest.skip("not in this transformers")
        config = transformers.models.auto.configuration_auto.CONFIG_MAPPING[model_type]()
        with pytest.raises(
            ValueError, match=rf"'{model_type}'\) because .*supported: albert.*register_family"
        ):
            SpanBertForPreTraining(config)

    def test_modules_show_what_no_path_may_claim(self):
        """Given by the user, these are refused by their modules."""
        lm_head = {"head": "lm_head", "decoder": "lm_head.decoder"}
        register_family("esm", **lm_head, transform=["lm_head.dense", "lm_head.layer_norm"])
        with pytest.raises(ValueError, match="lm_head.bias has an element for each word"):
            SpanBertForPreTraining(
                transformers.EsmConfig(
                    vocab_size=38, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
                )
            )
        predictions = {"head": "cls.predictions", "transform": "cls.predictions.transform"}
        register_family("mobilebert", **predictions, decoder="cls.predictions.decoder")
        config = transformers.MobileBertConfig(
            vocab_size=38, hidden_size=64, embedding_size=24, num_hidden_layers=1
        )
        with pytest.raises(ValueError, match="cls.predictions.dense.weight has an element for each word"):
            SpanBertForPreTraining(config)

    def test_sparse_prediction_changes_nothing(self):
        batch, losses = make_batch(4), []
        for sparse in (False, True):
            torch.manual_seed(0)
            model = SpanBertForPreTraining(
                family_config("modernbert", sparse_prediction=sparse), position_dim=24
            )
            losses.append(model(batch["input_ids"], labels=batch["labels"], return_logits=True))
        assert torch.equal(losses[0].loss, losses[1].loss) and torch.equal(losses[0].logits, losses[1].logits)

    def test_keywords_that_auto_classes_swallow(self, tmp_path):
        config = tiny_config()
        swallowed = {"trust_remote_code": False, "code_revision": None}
        model = SpanBertForPreTraining.from_config(config, **swallowed, attn_implementation="eager")
        assert model.config._attn_implementation == "eager"
        model.save_pretrained(tmp_path)
        again = SpanBertForPreTraining.from_pretrained(tmp_path, **swallowed, hidden_dropout_prob=0.25)
        assert again.config.hidden_dropout_prob == 0.25
        with pytest.raises(TypeError, match="nonsense"):
            SpanBertForPreTraining.from_config(config, nonsense=1)
