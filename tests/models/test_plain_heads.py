# SPDX-License-Identifier: Apache-2.0
"""`impl="reference"`: both heads in plain PyTorch, for a device whose kernels are missing or in doubt."""

from __future__ import annotations

import re

import pytest
import torch
from tiny_models import assert_close, make_batch, make_model, tiny_tokenizer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from spanbert_ext.fill.filling import fill_spans


class Decoder(nn.Linear):
    """The logits are made by calling it: its parameters do not say what it computes."""


class Called(TorchDispatchMode):
    """Names of the compiled operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "spanbert_ext":
            self.names.add(func._opname)
        return func(*args, **(kwargs or {}))


def step(impl: str, change, batch: dict) -> tuple[dict, dict, set[str]]:
    """The output's tensors, all gradients, and the compiled operators that ran."""
    model = make_model(impl=impl).double()
    change(model)
    with Called() as called:
        output = model(**batch)
        output.loss.backward()
    tensors = {name: x for name, x in output.items() if isinstance(x, torch.Tensor)}
    return tensors, {name: x.grad for name, x in model.named_parameters()}, called.names


def call_the_decoder(model) -> None:
    old = model.get_output_embeddings()
    new = Decoder(old.in_features, old.out_features).double()
    new.weight, new.bias = old.weight, old.bias
    model.set_output_embeddings(new)


@pytest.mark.parametrize("change", [lambda model: None, call_the_decoder])
@pytest.mark.parametrize("stock", [False, True])
def test_no_operator_of_the_heads_runs_and_nothing_else_changes(change, stock):
    batch = make_batch()
    if stock:  # of DataCollatorForLanguageModeling: no index tensors
        batch = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    fused, of_fused, called = step("fused", change, batch)
    plain, of_plain, of_reference = step("reference", change, batch)
    assert called and not of_reference
    assert fused.keys() == plain.keys()
    for name, tensor in fused.items():
        torch.testing.assert_close(plain[name], tensor, rtol=1e-12, atol=1e-12)
    assert_close(of_fused, of_plain, 1e-12)


def test_filling_in_takes_the_option_too():
    found = {}
    for impl in ("fused", "reference"):
        model = make_model(impl=impl).eval()
        model.sbo.norm1.weight.data.fill_(1.5)  # or it counts as untrained
        with Called() as called:
            (text,) = fill_spans(model, tiny_tokenizer(), ["the [MASK] cat . a big dog ."])
        found[impl] = text, called.names
    assert found["fused"][1] and not found["reference"][1]
    tokens, plain = (re.findall(r"ids?=[^=]*,", str(found[impl][0])) for impl in ("fused", "reference"))
    assert len(tokens) > 10 and tokens == plain
