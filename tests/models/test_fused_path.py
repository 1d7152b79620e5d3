# SPDX-License-Identifier: Apache-2.0
"""Whatever is done to the modules of a model, its loss is what calling them gives."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
from tiny_models import INDICES, assert_close, encoder_inputs, gradients, make_batch, make_model, one_thread  # noqa: F401
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from spanbert_ext import SpanBertForPreTraining, SpanBoundaryHead
from spanbert_ext.models import fused_path


@pytest.fixture(autouse=True)
def warned(monkeypatch):
    """The texts of this test's warnings."""
    texts: set[str] = set()
    monkeypatch.setattr(fused_path, "_warned", texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield texts


def loss_by_calling(model: SpanBertForPreTraining, batch: dict[str, Tensor]) -> Tensor:
    """Both heads' means, from whole sequences, by calling modules alone; nothing of ours is in it but the sizes."""
    x = model.bert(**encoder_inputs(batch))[0]  # [B, L, H]
    masked, left, right = (batch[name] for name in INDICES)
    row, entry = (masked >= 0).nonzero(as_tuple=True)
    position = masked[row, entry]
    target = batch["labels"][row, position]
    mlm = F.cross_entropy(model.cls(x)[row, position], target)

    row, entry = (left >= 0).nonzero(as_tuple=True)
    position, begin, end = masked[row, entry], left[row, entry], right[row, entry]
    sbo, decoder = model.sbo, model.get_output_embeddings()
    if type(sbo).forward is SpanBoundaryHead.forward:
        h = torch.cat([x[row, begin], x[row, end], sbo.position_embeddings(position - begin - 1)], dim=-1)
        h = sbo.norm2(F.gelu(sbo.dense2(sbo.norm1(F.gelu(sbo.dense1(h))))))
    else:
        h = sbo(x, masked, left, right)[row, entry]
    logits = decoder(h) - decoder(torch.zeros_like(h[:1])) + sbo.bias
    return mlm + F.cross_entropy(logits, batch["labels"][row, position])


def assert_right(model: SpanBertForPreTraining, tolerance: float = 1e-9) -> None:
    """Loss and gradients in training and the loss in evaluation, there of both heads too."""
    batch = make_batch()
    model.config.span_pretraining |= {"evaluation_loss": "sum", "evaluation_logits": False}
    for training in (True, False):
        model.train(training)
        losses, found = [], []
        for compute in (lambda: model(**batch).loss, lambda: loss_by_calling(model, batch)):
            model.zero_grad()
            losses.append(compute())
            if training and losses[-1].requires_grad:
                losses[-1].backward()
            found.append(gradients(model))
        torch.testing.assert_close(*losses, rtol=tolerance, atol=tolerance)
        assert_close(*found, tolerance)


class AlongTokens(nn.Module):
    """x * sigmoid(mean over the tokens), behind the module whose place it takes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> Tensor:
        x = self.inner(*inputs)
        return x * torch.sigmoid(x.mean(-2, keepdim=True))


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 1.5 * super().forward(x)


class WholeSequences(SpanBoundaryHead):
    """Reads more than the boundaries."""

    def forward(self, x: Tensor, *indices: Tensor, **options) -> Tensor:
        return super().forward(x + x.mean(1, keepdim=True), *indices, **options)


def replaced(path: str, make: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], None]:
    return lambda model: model.set_submodule(path, make(model.get_submodule(path)))


def with_class(path: str, cls: type) -> Callable[[nn.Module], None]:
    return lambda model: setattr(model.get_submodule(path), "__class__", cls)


def with_attribute(path: str, name: str, value: object) -> Callable[[nn.Module], None]:
    return lambda model: setattr(model.get_submodule(path), name, value)


def with_hook(path: str) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        model.get_submodule(path).register_forward_hook(lambda module, inputs, output: along(output))

    return change


def along(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x.mean(-2, keepdim=True)) if x.dim() == 3 else 1.5 * x


def with_own_forward(path: str) -> Callable[[nn.Module], None]:
    def change(model: nn.Module) -> None:
        module = model.get_submodule(path)
        forward = module.forward
        module.forward = lambda *inputs, **options: along(forward(*inputs, **options))

    return change


def shared_last_output(model: nn.Module) -> None:
    model.bert.encoder.layer[0].output = model.bert.encoder.layer[-1].output


def without_bias(path: str) -> Callable[[nn.Module], None]:
    return lambda model: setattr(model.get_submodule(path), "bias", None)


LAST = "bert.encoder.layer.1"
HEAD = "cls.predictions"
CHANGES = {
    # behind the last layer's attention
    "intermediate along tokens": replaced(f"{LAST}.intermediate", AlongTokens),
    "output along tokens": replaced(f"{LAST}.output", AlongTokens),
    "attention output along tokens": replaced(f"{LAST}.attention.output", AlongTokens),
    "a dense along tokens": replaced(f"{LAST}.output.dense", AlongTokens),
    "a dropout along tokens": replaced(f"{LAST}.output.dropout", AlongTokens),
    "an activation along tokens": with_attribute(
        f"{LAST}.intermediate", "intermediate_act_fn", AlongTokens(nn.GELU())
    ),
    "a subclass behind the attention": with_class(f"{LAST}.intermediate.dense", Scaled),
    "a hook behind the attention": with_hook(f"{LAST}.intermediate"),
    "a hook on a leaf": with_hook(f"{LAST}.output.dense"),
    "a forward behind the attention": with_own_forward(f"{LAST}.intermediate"),
    "a hook on the last layer": with_hook(LAST),
    "a shared output": shared_last_output,
    # the MLM head
    "transform along tokens": replaced(f"{HEAD}.transform", AlongTokens),
    "transform dense along tokens": replaced(f"{HEAD}.transform.dense", AlongTokens),
    "a hook on the transform": with_hook(f"{HEAD}.transform"),
    "a forward of the transform": with_own_forward(f"{HEAD}.transform"),
    "a hook on cls": with_hook("cls"),
    "a hook on cls.predictions": with_hook(HEAD),
    "a forward of cls": with_own_forward("cls"),
    # the decoder
    "a subclass of the decoder": with_class(f"{HEAD}.decoder", Scaled),
    "a hook on the decoder": lambda model: model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: 1.5 * output
    ),
    "a parametrised decoder": lambda model: parametrize.register_parametrization(
        model.get_output_embeddings(), "weight", nn.Tanh()
    ),
    "a pruned decoder": lambda model: prune.random_unstructured(model.get_output_embeddings(), "weight", 0.5),
    "a decoder without bias": without_bias(f"{HEAD}.decoder"),
    # the span-boundary head
    "a subclass in the SBO": with_class("sbo.dense1", Scaled),
    "a hook in the SBO": lambda model: model.sbo.norm1.register_forward_hook(
        lambda m, i, output: 1.5 * output
    ),
    "a forward in the SBO": lambda model: setattr(
        model.sbo.dense2, "forward", lambda x, forward=model.sbo.dense2.forward: 1.5 * forward(x)
    ),
    "a parametrised SBO": lambda model: parametrizations.weight_norm(model.sbo.dense1),
    "a pruned SBO": lambda model: prune.random_unstructured(model.sbo.dense2, "weight", 0.5),
    "a parametrised table": lambda model: parametrize.register_parametrization(
        model.sbo.position_embeddings, "weight", nn.Tanh()
    ),
    "norms that differ": with_attribute("sbo.norm2", "eps", 0.1),
    "a table with max_norm": with_attribute("sbo.position_embeddings", "max_norm", 0.05),
    "no bias in the SBO": without_bias("sbo.dense1"),
    "no bias in a norm": without_bias("sbo.norm2"),
    "a norm without parameters": replaced("sbo.norm1", lambda m: nn.LayerNorm(32, elementwise_affine=False)),
    "one dense in two places": lambda model: setattr(
        model.bert.encoder.layer[0].output, "dense", model.bert.encoder.layer[1].output.dense
    ),
    "an SBO of the user's": with_class("sbo", WholeSequences),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_modules_are_called(name, warned):
    model = make_model().double()
    CHANGES[name](model)
    assert_right(model.double())


@pytest.mark.parametrize("name", [None, "a hook on the decoder", "a hook on cls"])
def test_a_masked_token_without_a_label_is_no_target(name):
    """Its boundaries stay: whoever takes labels away leaves the rest of the batch as it is."""
    model, batch = make_model().double(), make_batch()
    if name is not None:
        CHANGES[name](model)
    batch["labels"][:4] = -100
    unlabelled = batch["labels"].gather(1, batch["masked_positions"].clamp_min(0)) < 0
    assert 0 < (unlabelled & (batch["left_boundary"] >= 0)).sum() < (batch["left_boundary"] >= 0).sum()
    torch.testing.assert_close(model(**batch).loss, loss_by_calling(model, batch))


def test_the_changes_matter():
    """Else the test above could pass with modules that are not called."""
    batch, expected = make_batch(), make_model().double()
    expected = expected(**batch).loss
    same = {"a parametrised SBO", "no bias in the SBO", "no bias in a norm", "a norm without parameters"}
    same |= {"a decoder without bias"}  # of zeros: only reading them would be an error
    for name, change in CHANGES.items():
        model = make_model().double()
        change(model)
        found = loss_by_calling(model.double(), batch)
        assert name in same or abs(found - expected) > 1e-9, name


def test_an_unchanged_model_warns_of_nothing(warned):
    model = make_model()
    model(**make_batch()).loss.backward()
    assert not warned


@pytest.mark.parametrize(
    ("name", "path", "cost"),
    [
        ("a subclass in the SBO", "sbo.dense1", "calls its modules"),
        ("a hook on the decoder", "cls.predictions.decoder", "logits"),
        ("a hook on cls", "cls", "logits of all tokens"),
        ("transform dense along tokens", "cls.predictions.transform.dense", "all tokens"),
        ("an SBO of the user's", "sbo", "all rows"),
    ],
)
def test_one_warning_names_the_module_and_what_it_costs(name, path, cost, warned):
    model, batch = make_model(), make_batch()
    CHANGES[name](model)
    with pytest.warns(UserWarning, match=rf"^{path} ") as found:
        for _ in range(3):
            model(**batch)
    assert len(found) == len(warned) == 1 and cost in str(found[0].message)
    assert found[0].filename == __file__  # that of the call


def test_hooks_of_every_module_see_every_module():
    model, batch = make_model().double(), make_batch()
    expected, seen = model(**batch).loss, []
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, inputs, output: seen.append(module)
    )
    try:
        torch.testing.assert_close(model(**batch).loss, expected, rtol=1e-10, atol=0)
    finally:
        handle.remove()
    for path in ("sbo.dense1", "sbo.norm2", f"{HEAD}.decoder", f"{LAST}.output"):
        assert model.get_submodule(path) in seen


def test_backward_hooks_run():
    model, batch = make_model(), make_batch()
    called = []
    for path in ("sbo.dense1", f"{HEAD}.decoder", f"{LAST}.output.dense"):
        model.get_submodule(path).register_full_backward_hook(
            lambda module, *_, path=path: called.append(path)
        )
    model(**batch).loss.backward()
    assert set(called) == {"sbo.dense1", f"{HEAD}.decoder", f"{LAST}.output.dense"}


def test_modules_that_compile_themselves_are_right():
    model, batch = make_model().double(), make_batch()
    expected = model(**batch).loss
    for path in ("sbo.dense1", "sbo", f"{HEAD}.transform", f"{HEAD}.decoder", "cls"):
        compiled, wrapped = copy.deepcopy(model), copy.deepcopy(model)
        compiled.get_submodule(path).compile(backend="eager")
        torch.testing.assert_close(compiled(**batch).loss, expected, rtol=1e-10, atol=0)
        wrapped.set_submodule(path, torch.compile(wrapped.get_submodule(path), backend="eager"))
        torch.testing.assert_close(wrapped(**batch).loss, expected, rtol=1e-10, atol=0)
        torch._dynamo.reset()


def test_a_quantised_model():
    model, batch = make_model(evaluation_loss="sum").eval(), make_batch()
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert type(quantised.sbo.dense1) is not nn.Linear
    with torch.no_grad():
        torch.testing.assert_close(
            quantised(**batch).loss, loss_by_calling(quantised, batch), rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(quantised(**batch).loss, model(**batch).loss, rtol=2e-2, atol=0)


def test_an_offloaded_model():
    accelerate = pytest.importorskip("accelerate")
    model, batch = make_model().eval(), make_batch()
    expected = model(**batch)
    offloaded = accelerate.cpu_offload(copy.deepcopy(model), execution_device="cpu")
    assert offloaded.sbo.bias.device.type == "meta"
    with torch.no_grad():
        found = offloaded(**batch)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.row_statistics, expected.row_statistics)
    torch.testing.assert_close(
        offloaded(**encoder_inputs(batch)).logits, model(**encoder_inputs(batch)).logits
    )


def test_mixed_dtypes_as_for_training_on_quantised_weights():
    model, batch = make_model().bfloat16(), make_batch()
    expected = model(**batch).loss
    for module in model.sbo.modules():
        if isinstance(module, nn.LayerNorm):
            module.float()
    torch.testing.assert_close(model(**batch).loss, expected, rtol=2e-2, atol=0)


def test_changes_come_and_go(warned, rows_computed):
    """A module is looked at in every call."""
    model, batch = make_model().double(), make_batch()
    expected = model(**batch).loss
    handle = model.sbo.dense1.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert model(**batch).loss != expected and warned
    handle.remove()
    assert model(**batch).loss == expected
    handle = model.bert.encoder.layer[-1].output.register_forward_hook(lambda module, inputs, output: None)
    computed = rows_computed(model)
    model(**batch)
    handle.remove()
    model(**batch)
    assert computed[0] == batch["input_ids"].numel() > computed[1]


def test_targets_beyond_the_vocabulary_through_a_called_decoder():
    model, batch = make_model(), make_batch()
    CHANGES["a hook on the decoder"](model)
    batch["labels"][batch["labels"] >= 0] = 70
    with pytest.raises(IndexError, match=r"labels.*70"):
        model(**batch)


def test_positions_that_fit_nothing_through_called_modules():
    model, batch = make_model(), make_batch()
    CHANGES["a subclass in the SBO"](model)
    b, k = (batch["left_boundary"] >= 0).nonzero()[0].tolist()
    for name, value in (("left_boundary", batch["input_ids"].shape[1] + 5), ("right_boundary", -1)):
        broken = {**batch, name: batch[name].clone()}
        broken[name][b, k] = value
        with pytest.raises((IndexError, ValueError), match="boundary"):
            model(**broken)


def test_rows_of_tokens_through_called_modules():
    head, batch = make_model().double().sbo, make_batch()
    indices = [batch[name] for name in INDICES]
    x = torch.randn(*batch["input_ids"].shape, 32, dtype=torch.float64)
    tokens = torch.tensor([3, -1, x.shape[0] * x.shape[1] - 1, 3])
    expected = head(x, *indices, token_rows=tokens)
    head.dense1.register_forward_hook(lambda module, inputs, output: None)
    for found, wanted in zip(head(x, *indices, token_rows=tokens), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    with pytest.raises(IndexError, match=r"token_rows\[1\] is 9999"):
        head(x, *indices, token_rows=torch.tensor([0, 9999]))
    with pytest.raises(TypeError, match="token_rows"):
        head(x, *indices, token_rows=False)
    empty = head(x[:0], *[index[:0] for index in indices], token_rows=torch.tensor([-1]))
    assert empty[1].tolist() == [[0.0] * 32]
