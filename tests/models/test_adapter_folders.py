# SPDX-License-Identifier: Apache-2.0
"""Folders of adapters: saved as the native class saves them, loaded with their base by whatever loads that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_models import encoder_inputs, make_batch, make_model, one_thread, tiny_config  # noqa: F401
from torch import nn
from transformers import AutoModelForMaskedLM, BertForMaskedLM

peft = pytest.importorskip("peft")

from test_model_card import hub  # noqa: E402, F401

from spanbert_ext.models import pretraining  # noqa: E402
from spanbert_ext.models.model_card import CARD  # noqa: E402
from spanbert_ext.models.pretraining import SpanBertForPreTraining  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of modules that are called

LOADERS = {
    "AutoModelForMaskedLM": AutoModelForMaskedLM,
    "the class of one type": pretraining.BertForSpanPreTraining,
    "the class of all": SpanBertForPreTraining,
}


def adapters(**options) -> peft.LoraConfig:
    return peft.LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False, **options)


def base_folder(folder: Path) -> Path:
    model = make_model()
    nn.init.normal_(model.sbo.bias)
    model.save_pretrained(folder / "base")
    return folder / "base"


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("way", ["add_adapter", "get_peft_model"])
def test_adapters_are_loaded_with_their_base(way, loader, tmp_path):
    torch.manual_seed(1)
    model = SpanBertForPreTraining.from_pretrained(base_folder(tmp_path))
    if way == "add_adapter":
        model.add_adapter(adapters())
    else:
        model = peft.get_peft_model(model, adapters(modules_to_save=["sbo"]))
    folder = tmp_path / "adapters"
    model.save_pretrained(folder)
    assert not (folder / "config.json").exists() and (folder / "adapter_model.safetensors").exists()
    loaded = LOADERS[loader].from_pretrained(folder).eval()
    ours = loader != "AutoModelForMaskedLM"
    assert type(loaded) is (pretraining.BertForSpanPreTraining if ours else BertForMaskedLM)
    batch, model = make_batch(), model.eval()
    plain = SpanBertForPreTraining.from_pretrained(tmp_path / "base").eval()
    with torch.no_grad():
        inputs = encoder_inputs(batch)
        expected = model(**inputs).logits
        torch.testing.assert_close(loaded(**inputs).logits, expected)
        assert (plain(**inputs).logits - expected).abs().max() > 1e-3
        if ours:
            torch.testing.assert_close(loaded(**batch).sbo_loss, model(**batch).sbo_loss)


def test_a_folder_of_added_adapters_is_the_native_classs(tmp_path):
    base = base_folder(tmp_path)
    for name, kind in {"native": BertForMaskedLM, "ours": SpanBertForPreTraining}.items():
        model = kind.from_pretrained(base)
        model.add_adapter(adapters())
        model.save_pretrained(tmp_path / name)
    files = [{path.name for path in (tmp_path / name).iterdir()} for name in ("native", "ours")]
    assert files[0] == files[1]
    model.delete_adapter("default")
    model.save_pretrained(tmp_path / "ours")  # a whole model again
    assert {"config.json", "model.safetensors", CARD} <= {path.name for path in (tmp_path / "ours").iterdir()}


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
def test_a_push_of_added_adapters(way, hub, tmp_path):  # noqa: F811
    model = SpanBertForPreTraining.from_pretrained(base_folder(tmp_path))
    model.add_adapter(adapters())
    if way == "push_to_hub":
        model.push_to_hub("mine")
    else:
        model.save_pretrained(tmp_path / "mine", push_to_hub=True)
    assert hub.files.keys() == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_model_beside_its_adapters_is_their_base(tmp_path):
    base = base_folder(tmp_path)
    model = SpanBertForPreTraining.from_pretrained(base)
    model.add_adapter(adapters())
    model.save_pretrained(tmp_path / "adapters")
    (tmp_path / "adapters" / "adapter_model.safetensors").rename(base / "adapter_model.safetensors")
    elsewhere = adapters()
    elsewhere.base_model_name_or_path = "nobody/nowhere"
    elsewhere.save_pretrained(base)
    assert SpanBertForPreTraining.from_pretrained(base).active_adapters() == ["default"]


def test_adapters_of_a_model_without_a_name(tmp_path):
    peft.get_peft_model(SpanBertForPreTraining(tiny_config()), adapters()).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(saved | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="adapters of a model without a name.*load_adapter"):
        SpanBertForPreTraining.from_pretrained(tmp_path)
