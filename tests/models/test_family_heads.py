# SPDX-License-Identifier: Apache-2.0
"""MLM heads of other shapes than BERT's: whatever is done to their modules, the loss is what calling them gives."""

from __future__ import annotations

import pytest
import torch
from test_families import ALL, built, plain_sbo_loss, text_of
from test_fused_path import AlongTokens, Scaled, replaced, warned, with_class, with_hook, with_own_forward  # noqa: F401
from tiny_models import INDICES, assert_close, gradients, make_batch, one_thread  # noqa: F401
from torch import nn
from torch.nn import functional as F

# The decoder last: it must be affine, and LINEARS has what is done to it.
MODULES = {
    "roberta": ("lm_head", "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
    "distilbert": ("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
    "electra": ("generator_predictions", "generator_predictions.dense", "generator_lm_head"),
    "albert": ("predictions", "predictions.activation", "predictions.LayerNorm", "predictions.decoder"),
    "rembert": ("cls", "cls.predictions", "cls.predictions.dense", "cls.predictions.decoder"),
    "nomic_bert": ("cls", "cls.predictions.transform", "cls.predictions.decoder"),
    "modernbert": ("head", "head.norm", "decoder"),
    "eurobert": ("lm_head",),
    "xlm": ("pred_layer.proj",),
}


def assert_native(model: nn.Module) -> None:
    """Loss and gradients are those of the native forward, which calls the model's modules as they are now."""
    batch, found = make_batch(4), []
    native = model.native_class.forward(model, **text_of(batch)).logits
    sbo = plain_sbo_loss(model, model.base_model(**text_of(batch))[0], batch)
    loss = F.cross_entropy(native.flatten(0, 1), batch["labels"].flatten()) + sbo
    output = model(
        **text_of(batch), **{name: batch[name] for name in ("labels", *INDICES)}, return_logits=True
    )
    for each in (loss, output.loss):
        model.zero_grad()
        each.backward()
        found.append(gradients(model))
    torch.testing.assert_close(output.loss, loss, rtol=1e-9, atol=0)
    torch.testing.assert_close(output.logits, native, rtol=1e-9, atol=1e-9)
    assert_close(*found, 1e-9)


AROUND = {
    "lm_head",
    "predictions",
    "cls",
    "cls.predictions",
}  # wrapped, they hide the decoder: the last test here
CASES = [
    (model_type, path, change)
    for model_type, paths in MODULES.items()
    if model_type in ALL
    for path in paths[:-1]
    for change in ("wrapped", "hooked", "own forward")
    if change != "wrapped" or path not in AROUND
]
LINEARS = {
    "roberta": ("lm_head.dense", "lm_head.decoder"),
    "distilbert": ("vocab_transform", "vocab_projector"),
    "electra": ("generator_predictions.dense", "generator_lm_head"),
    "albert": ("predictions.dense", "predictions.decoder"),
    "modernbert": ("head.dense", "decoder"),
    "eurobert": ("lm_head",),
    "xlm": ("pred_layer.proj",),
}


@pytest.mark.parametrize(("model_type", "path", "change"), CASES, ids=lambda x: x)
def test_a_changed_module_is_called(model_type, path, change, warned):  # noqa: F811
    model = built(model_type)
    assert_native(model)
    assert not warned
    if change == "wrapped":
        replaced(path, AlongTokens)(model)
    elif change == "hooked":
        with_hook(path)(model)
    else:
        with_own_forward(path)(model)
    assert_native(model)
    assert any(path in text for text in warned)


@pytest.mark.parametrize(
    ("model_type", "path"),
    [(name, path) for name, paths in LINEARS.items() if name in ALL for path in paths],
    ids=lambda x: x,
)
def test_a_subclass_of_linear_is_called(model_type, path, warned):  # noqa: F811
    model = built(model_type)
    with_class(path, Scaled)(model)
    if model.get_submodule(path) is model.get_output_embeddings():
        batch = make_batch(4)
        native = model.native_class.forward(model, **text_of(batch)).logits
        loss = model(**text_of(batch), labels=batch["labels"]).loss
        expected = F.cross_entropy(native.flatten(0, 1), batch["labels"].flatten())
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)
        with_sbo = model(**text_of(batch), **{name: batch[name] for name in ("labels", *INDICES)})
        assert torch.isfinite(with_sbo.sbo_loss)
    else:
        assert_native(model)
    assert any(path in text for text in warned)


@pytest.mark.parametrize(
    ("model_type", "target"),
    [("roberta", "lm_head.dense"), ("distilbert", "vocab_transform"), ("modernbert", "head.dense")],
)
def test_lora(model_type, target, warned):  # noqa: F811
    peft = pytest.importorskip("peft")
    model = built(model_type)
    before = model(**text_of(make_batch(4)), labels=make_batch(4)["labels"]).loss
    config = peft.LoraConfig(target_modules=[target], r=2, init_lora_weights=False)
    model = peft.inject_adapter_in_model(config, model).double().eval()
    after = model(**text_of(make_batch(4)), labels=make_batch(4)["labels"]).loss
    assert abs(after - before) > 1e-6
    assert_native(model)
    assert any(target in text for text in warned)


def test_a_head_that_hides_its_decoder(warned):  # noqa: F811
    """The MLM is trained as in the native class; the span-boundary head has nothing to predict with."""
    model, batch = built("roberta"), make_batch(4)
    model.lm_head = AlongTokens(model.lm_head)
    native = model.native_class.forward(model, **text_of(batch)).logits
    expected = F.cross_entropy(native.flatten(0, 1), batch["labels"].flatten())
    torch.testing.assert_close(
        model(**text_of(batch), labels=batch["labels"]).loss, expected, rtol=1e-9, atol=0
    )
    with pytest.raises(ValueError, match="no decoder"):
        model(**text_of(batch), **{name: batch[name] for name in ("labels", *INDICES)})
    assert any("lm_head" in text for text in warned)
