# SPDX-License-Identifier: Apache-2.0
"""Modules of the user's in the places of the model's own, and what the model cannot use of them."""

from __future__ import annotations

import queue
import re

import pytest
import torch
from test_fused_path import LAST, AlongTokens, along, assert_right, warned  # noqa: F401
from tiny_models import INDICES, encoder_inputs, make_batch, make_model, one_thread, untie  # noqa: F401
from torch import Tensor, nn
from torch.nn import functional as F


def function_in_place_of(path: str):
    """A function that mixes tokens, which no list of modules shows."""

    def change(model: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        parent = model.get_submodule(parent)
        delattr(parent, name)
        setattr(parent, name, lambda x: along(F.gelu(x)))

    return change


def own_feed_forward(model: nn.Module) -> None:
    layer = model.bert.encoder.layer[-1]
    called = layer.feed_forward_chunk
    layer.feed_forward_chunk = lambda x: along(called(x))


class Backwards(nn.ModuleList):
    def __iter__(self):
        return reversed(list(super().__iter__()))


def layers_backwards(model: nn.Module) -> None:
    model.bert.encoder.layer = Backwards(model.bert.encoder.layer)


@pytest.mark.parametrize(
    "change",
    [
        function_in_place_of(f"{LAST}.intermediate.intermediate_act_fn"),
        function_in_place_of("cls.predictions.transform.transform_act_fn"),
        own_feed_forward,
        layers_backwards,
    ],
    ids=[
        "an activation",
        "an activation of the transform",
        "the feed-forward network",
        "the order of layers",
    ],
)
def test_what_is_no_module_of_its_own_is_called(change):
    batch, model = make_batch(), make_model().double()
    expected = model(**batch).loss
    change(model)
    assert abs(model(**batch).loss - expected) > 1e-7
    assert_right(model)


def test_hooks_that_are_methods_of_built_in_types():
    """Such a method has no __module__."""
    batch, model, seen = make_batch(), make_model(), queue.SimpleQueue()
    expected = model(**batch).loss
    watched = [model.get_submodule(path) for path in (f"{LAST}.output.dense", "sbo.dense1", "cls")]
    for module in watched:
        module.register_forward_pre_hook(seen.put)
    torch.testing.assert_close(model(**batch).loss, expected)
    assert {seen.get() for _ in range(seen.qsize())} == set(watched)


class SoftPrompt(nn.Module):
    """Embeddings with three tokens in front."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.prompt = nn.Parameter(torch.ones(3, 32))

    def forward(self, *inputs: Tensor, **options) -> Tensor:
        x = self.inner(*inputs, **options)
        return torch.cat([self.prompt.expand(len(x), -1, -1), x], dim=1)


@pytest.mark.parametrize("skip", [True, False])
def test_an_encoder_that_changes_the_length_is_an_error(skip):
    model, batch = make_model(skip_unread_rows=skip), make_batch()
    del batch["attention_mask"]
    model.bert.embeddings = SoftPrompt(model.bert.embeddings)
    with pytest.raises(ValueError, match="shape"):
        model(**batch)


class Boundaries(nn.Module):
    """An SBO without a bias, and with nothing else of SpanBoundaryHead."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(64, 32)

    def forward(self, x: Tensor, masked: Tensor, left: Tensor, right: Tensor) -> Tensor:
        row = torch.arange(len(x))[:, None]
        return self.dense(torch.cat([x[row, left.clamp_min(0)], x[row, right.clamp_min(0)]], dim=-1))


@pytest.mark.parametrize("hooked", [False, True], ids=["fused decoder", "called decoder"])
def test_a_span_boundary_head_without_a_bias(hooked):
    model, batch = make_model(), make_batch()
    model.sbo = Boundaries()
    model = model.double()
    if hooked:
        model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: None)
    x = model.bert(**encoder_inputs(batch))[0]
    masked, left, right = (batch[name] for name in INDICES)
    row, entry = (left >= 0).nonzero(as_tuple=True)
    logits = F.linear(model.sbo(x, masked, left, right)[row, entry], model.get_output_embeddings().weight)
    expected = F.cross_entropy(logits, batch["labels"][row, masked[row, entry]])
    found = model(**batch)
    torch.testing.assert_close(found.sbo_loss, expected.detach(), rtol=1e-10, atol=0)
    found.loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.sbo.parameters())


def test_without_a_bias_the_module_has_a_text():
    model = make_model()
    model.sbo.bias = None
    assert "no bias" in repr(model) and model(**make_batch()).loss.isfinite()


@pytest.mark.parametrize("hooked", [False, True], ids=["fused decoder", "called decoder"])
def test_boundaries_without_a_span_boundary_head(hooked):
    model, batch = make_model(), make_batch()
    if hooked:
        model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: None)
    model.sbo = None
    with pytest.raises(ValueError, match="left_boundary.* no sbo"):
        model(**batch)


def test_an_mlm_head_without_predictions():
    model, batch = make_model(), make_batch()
    model.cls = nn.Linear(32, 38)
    logits = model(**encoder_inputs(batch)).logits
    assert torch.equal(logits, model.cls(model.bert(**encoder_inputs(batch))[0]))
    with pytest.raises(ValueError, match="left_boundary.* no decoder"):
        model(**batch)
    expected = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    found = model(**encoder_inputs(batch), labels=batch["labels"]).loss
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("hooked", [False, True], ids=["replaced", "hooked"])
def test_a_decoder_along_tokens_gets_whole_sequences(hooked):
    model, batch = make_model().double(), make_batch()
    expected = model(**batch).mlm_loss
    if hooked:
        model.get_output_embeddings().register_forward_hook(
            lambda module, inputs, output: output * torch.sigmoid(output.mean(1, keepdim=True))
        )
    else:
        model.cls.predictions.decoder = AlongTokens(model.cls.predictions.decoder)
    logits = model(**encoder_inputs(batch)).logits
    found = model(**batch).mlm_loss
    assert abs(found - expected) > 1e-7
    expected = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    torch.testing.assert_close(found, expected.detach(), rtol=1e-10, atol=0)


class Decoder(nn.Linear):
    pass


@pytest.mark.parametrize("cls", [nn.Linear, Decoder], ids=["fused", "called"])
def test_a_decoder_of_another_width(cls):
    model, batch = make_model(), make_batch()
    model.cls.predictions.decoder = cls(32, 30)
    with pytest.raises(ValueError, match=re.escape("sbo_bias has shape [38], expected [V] = [30]")):
        model(**batch)
    model.sbo.bias = nn.Parameter(torch.zeros(30))
    with pytest.raises(IndexError, match="V = 30"):
        model(**batch)


def test_positions_are_checked_with_called_modules():
    model, batch = make_model(), make_batch()
    for path in ("sbo.dense1", "cls.predictions.decoder"):
        model.get_submodule(path).register_forward_hook(lambda module, inputs, output: None)
    masked = batch["masked_positions"]
    with pytest.raises(IndexError, match="masked_positions has values from -5"):
        model(**batch | {"masked_positions": masked.where(masked >= 0, -5)})


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("path", ["sbo.dense1", "cls.predictions.decoder"])
def test_sparse_matrices(path):
    model = make_model().double()
    untie(model)
    module = model.get_submodule(path)
    module.weight = nn.Parameter(module.weight.detach().to_sparse_csr())
    assert_right(model)
