# SPDX-License-Identifier: Apache-2.0
"""No step waits for the device: what would, on the CPU, on torch's meta device and on a GPU."""

from __future__ import annotations

import sys

import pytest
import torch
from tiny_models import (  # noqa: F401
    assert_close,
    encoder_inputs,
    full_batch,
    gradients,
    make_model,
    moved,
    one_thread,
    skewed_batch,
    tiny_tokenizer,
)
from torch.overrides import TorchFunctionMode

from spanbert_ext import SpanMasker

pytestmark = pytest.mark.filterwarnings("ignore:.*has hooks")  # of the modules that are called

READS = {
    *(
        "item",
        "tolist",
        "numpy",
        "cpu",
        "nonzero",
        "argwhere",
        "masked_select",
        "unique",
        "equal",
        "is_nonzero",
    ),
    *("__bool__", "__int__", "__float__", "__index__", "__array__"),
}


class HostReads(TorchFunctionMode):
    """Notes all calls that bring values of a tensor to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in READS:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def masked_positions_alone(batch: dict) -> dict:
    return {name: x for name, x in batch.items() if name not in ("left_boundary", "right_boundary")}


def labels_alone(batch: dict) -> dict:
    return {**encoder_inputs(batch), "labels": batch["labels"], "all_text": batch["all_text"]}


def with_pairs(batch: dict) -> dict:
    return batch | {"is_random_next": torch.arange(len(batch["labels"])) % 3 - 1}


CASES = {
    "spans": lambda: full_batch(96),
    "masked positions alone": lambda: masked_positions_alone(full_batch(96)),
    "ragged with bounds": skewed_batch,
    "labels alone, not counted": lambda: labels_alone(full_batch()),
    "text that the model masks": lambda: {**encoder_inputs(full_batch()), "all_text": True},
    "called modules": lambda: full_batch(96) | {"num_items_in_batch": 500, "num_sbo_items": 400},
    "pairs": lambda: with_pairs(full_batch(96)),
    "pairs, called modules": lambda: (
        with_pairs(full_batch(96)) | {"num_items_in_batch": 500, "num_nsp_items": 90}
    ),
}


@pytest.fixture(params=CASES)
def case(request) -> tuple:
    """A model and a batch of which no forward needs to know more on the host."""
    model = make_model(count_rows=False, nsp="pairs" in request.param)
    if "masks" in request.param:
        model.set_masker(SpanMasker.from_tokenizer(tiny_tokenizer()))
    if "called" in request.param:
        for path in ("sbo.dense1", "cls.predictions.decoder"):
            model.get_submodule(path).register_forward_hook(lambda module, inputs, output: None)
    return model, CASES[request.param]()


class TestWithoutAGPU:
    def test_nothing_is_read_where_nothing_can_be(self, case):
        """Tensors without values: reading one raises, in forward and in backward."""
        model, batch = case
        model.to("meta")
        loss = model(**moved(batch, "meta")).loss
        loss.backward()
        assert loss.is_meta and all(p.grad.is_meta for p in model.parameters() if p.grad is not None)

    def test_without_all_text_transformers_reads_the_mask(self):
        """What the collator's word spares; and that the test above can fail."""
        model, batch = make_model().to("meta"), full_batch()
        del batch["all_text"]
        with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
            model(**moved(batch, "meta"))

    @pytest.mark.parametrize("count_rows", [True, False])
    def test_labels_alone_are_counted_once_and_before_the_encoder(self, monkeypatch, count_rows):
        for name, module in sys.modules.items():  # as on a GPU
            if name.startswith("spanbert_ext") and hasattr(module, "may_read_values"):
                monkeypatch.setattr(module, "may_read_values", lambda x: False)
        model, batch = make_model(count_rows=count_rows), labels_alone(full_batch())
        del batch["all_text"]  # the stock collator's batch
        with HostReads() as reads:
            names = reads.names
            model.bert.register_forward_pre_hook(lambda module, args: names.append("encoder"))
            model(**batch)
        transformers_own = ["__bool__"]  # is the mask all ones?
        assert names == ["tolist"] * count_rows + ["encoder"] + transformers_own


@pytest.mark.needs_cuda
class TestOnAGPU:
    @pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
    def test_a_step_never_waits(self, case, autocast):
        model, batch = case
        expected = model(**batch).loss
        model.masking_step.zero_()
        model.to("cuda")
        batch = moved(batch, "cuda")

        def step() -> torch.Tensor:
            model.zero_grad()
            model.masking_step.zero_()
            with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
                loss = model(**batch).loss
            loss.backward()
            return loss.detach()

        step()  # libraries set themselves up
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            loss = step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(loss.cpu(), expected.detach(), rtol=2e-2 if autocast else 1e-4, atol=0)
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    def test_labels_alone_are_decoded_and_computed_as_on_the_cpu(self, rows_computed):
        model, batch = make_model().double(), labels_alone(skewed_batch())
        model(**batch).loss.backward()
        expected = gradients(model)
        model.zero_grad()
        model.to("cuda")
        computed = rows_computed(model)
        output = model(**moved(batch, "cuda"))
        output.loss.backward()
        assert output.mlm_prediction.shape == (96, 8)  # the longest row's 8 targets
        assert computed == [512] and batch["labels"].numel() == 96 * 52
        assert_close({name: x.cpu() for name, x in gradients(model).items()}, expected, 1e-9)

    def test_too_small_a_bound_is_nan(self):
        model, batch = make_model().to("cuda"), moved(skewed_batch(), "cuda")
        assert model(**batch).loss.isfinite()
        assert model(**(batch | {"max_read_rows": 64})).loss.isnan()
        assert model(**(batch | {"max_rows": 64})).loss.isnan()
