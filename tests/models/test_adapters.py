# SPDX-License-Identifier: Apache-2.0
"""Adapters of PEFT: the loss is that of the merged model, and every adapter learns."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import encoder_inputs, gradients, make_batch, make_model, one_thread, untie  # noqa: F401
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # what is called, and what PEFT says of tied weights

CONFIGURATIONS = {
    "all-linear": {"target_modules": "all-linear"},
    "all-linear with dora": {"target_modules": "all-linear", "use_dora": True},
    "with rank-stabilised scaling and biases": {
        "target_modules": "all-linear",
        "use_rslora": True,
        "bias": "all",
    },
    "attention": {"target_modules": ["query", "value"]},
    "the SBO alone": {"target_modules": ["sbo.dense1", "sbo.dense2"]},
    "the decoder": {"target_modules": ["decoder"]},
    "the transform": {"target_modules": ["transform.dense"]},
    "the position table": {"target_modules": ["position_embeddings"]},
    "heads in full": {"target_modules": ["query"], "modules_to_save": ["cls", "sbo"]},
    "the transform in full": {"target_modules": ["query"], "modules_to_save": ["transform"]},
    "tokens": {"target_modules": "all-linear", "trainable_token_indices": [11, 12]},
}


def adapted(name: str, model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(r=4, init_lora_weights=False, **CONFIGURATIONS[name])).double()


def randomise(model: nn.Module) -> None:
    """What else is trained gets other values than those it was copied from."""
    torch.manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=0.05)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_loss_is_that_of_the_merged_model_and_every_adapter_has_a_gradient(name):
    batch = make_batch()
    model = make_model().double()
    if (
        name == "the decoder"
    ):  # merged into a matrix that is tied, its adapter would change the embeddings too
        untie(model)
    model = adapted(name, model)
    randomise(model)
    found = model(**batch)
    found.loss.backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained - gradients(model).keys() == set()
    for parameter, gradient in gradients(model).items():
        # with random ids and one row of [CLS], every trained parameter but a row of the table has a share
        assert gradient.abs().sum() > 0, parameter

    stock = F.cross_entropy(model(**encoder_inputs(batch)).logits.flatten(0, 1), batch["labels"].flatten())
    torch.testing.assert_close(found.mlm_loss, stock, rtol=1e-9, atol=0, check_dtype=False)
    merged = copy.deepcopy(model).merge_and_unload()
    assert not any(isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer) for module in merged.modules())
    expected = merged(**batch)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.sbo_loss, expected.sbo_loss, rtol=1e-9, atol=0)


def test_without_its_adapter_a_model_is_the_base_model():
    model, batch = make_model().double(), make_batch()
    expected = model(**batch).loss
    wrapped = adapted("all-linear", model)
    assert abs(wrapped(**batch).loss - expected) > 1e-6
    with wrapped.disable_adapter():
        torch.testing.assert_close(wrapped(**batch).loss, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(wrapped.unload()(**batch).loss, expected, rtol=1e-10, atol=0)


def test_adapters_of_the_attention_leave_rows_out(rows_computed):
    batch = make_batch()
    model = adapted("attention", make_model().double())
    computed = rows_computed(model.base_model.model)
    model(**batch)
    assert computed[0] < batch["input_ids"].numel()


@pytest.mark.parametrize("target", ["decoder", "dense1", "transform.dense", "output.dense"])
def test_adapters_by_row_of_the_batch(target):
    batch, names = make_batch(), ["one", "two", "__base__", "one", "one", "two", "two", "__base__"]
    model = make_model().double()
    untie(model)
    config = LoraConfig(r=4, init_lora_weights=False, target_modules=[target])
    model = get_peft_model(model, config, adapter_name="one")
    model.add_adapter("two", config)
    model = model.double().eval()
    with torch.no_grad():
        found = model(**batch, adapter_names=names, return_logits=False).row_statistics
        expected = torch.zeros_like(found)
        for i, name in enumerate(names):
            row = {key: x[i : i + 1] if isinstance(x, torch.Tensor) else x for key, x in batch.items()}
            if name != "__base__":
                model.set_adapter(name)
            with model.disable_adapter() if name == "__base__" else nullcontext():
                expected[i] = model(**row, return_logits=False).row_statistics[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert found[0, 0] != found[1, 0]


def test_adapters_under_ddp(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        batch = make_batch()
        model = adapted("all-linear", make_model().double())
        model(**batch).loss.backward()
        expected = gradients(model)
        model.zero_grad()
        parallel = DistributedDataParallel(model)
        for _ in range(2):  # the second step raises where a parameter took no part in the first
            model.zero_grad()
            parallel(**batch).loss.backward()
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(gradient, expected[name])
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    finally:
        distributed.destroy_process_group()
