# SPDX-License-Identifier: Apache-2.0
"""The last layer on the rows that are read, in every encoder family that allows it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from families_samples import family_config
from tiny_models import INDICES, assert_close, full_batch, gradients, make_batch, one_thread  # noqa: F401
from torch import Tensor, nn

from spanbert_ext import SpanBertForPreTraining
from spanbert_ext.models import read_rows
from spanbert_ext.models.families import FAMILIES, all_rows
from spanbert_ext.models.native_classes import supported_types

SKIPPING = [name for name in supported_types() if FAMILIES[name].last_layer is not all_rows]
# One for each shape of a last layer.
SHAPES = {FAMILIES[name].last_layer: name for name in SKIPPING}.values()
NARROWED = ["distilbert", "eurobert", "jina_embeddings_v3", "modernbert", "mpnet", "nomic_bert"]
NARROWED = [name for name in NARROWED if name in SKIPPING]
# MRA's attention knows float32 alone. Longformer's and ModernBERT's eager one are NaN where a token sees nothing but
# padding in float64, whose lowest number they add in front of a softmax of float32.
FLOAT32, WITHOUT_PADDING = {"mra"}, {"longformer"}
OWN = {"roc_bert": {"pronunciation_vocab_size": 8, "shape_vocab_size": 8}}


def build(
    name: str, skip: bool = True, dtype: torch.dtype = torch.float64, **options
) -> SpanBertForPreTraining:
    torch.manual_seed(0)
    config = family_config(name, **OWN.get(name, {}), **options)
    evaluation = {"evaluation_loss": "sum", "evaluation_logits": False}  # as in training
    model = SpanBertForPreTraining(config, position_dim=24, skip_unread_rows=skip, **evaluation)
    return model.to(torch.float32 if name in FLOAT32 else dtype)


def batch_for(name: str, **options) -> dict[str, Tensor]:
    return full_batch(**options) if name in WITHOUT_PADDING else make_batch()


def every(batch: dict[str, Tensor]) -> int:
    return batch["input_ids"].numel()


def read(batch: dict[str, Tensor]) -> int:
    """The masked positions, the boundaries, and the first position of each row."""
    rows = {
        (b, max(position, 0))
        for x in INDICES
        for b, row in enumerate(batch[x].tolist())
        for position in [*row, 0]
    }
    return len(rows)


def loss_of(model: SpanBertForPreTraining, batch: dict[str, Tensor], **options) -> Tensor:
    np.random.seed(0)  # big_bird's random blocks
    return model(**batch, **options).loss


@pytest.fixture
def watch(monkeypatch) -> Callable[[SpanBertForPreTraining], list[int]]:
    """As `rows_computed`, for any family: the rows of the widest module behind the last attention, call by call."""

    def widest(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    def start(model: SpanBertForPreTraining) -> list[int]:
        behind = [module for _, module in model.layer_shape.find(model).behind]
        watched, counts = max(behind, key=widest), []
        forward = type(watched).forward

        def counting(module: nn.Module, x: Tensor, *others: Tensor) -> Tensor:
            if module is watched:
                counts.append(x.shape[:-1].numel())
            return forward(module, x, *others)

        monkeypatch.setattr(type(watched), "forward", counting)
        return counts

    return start


def compare(name: str, batch: dict[str, Tensor], watch, expected: int, **options) -> None:
    """Loss and gradients against those of all rows, and the rows of the last layer."""
    losses, found = [], []
    for skip in (True, False):
        model = build(name, skip, **options)
        counts = watch(model)
        losses.append(loss_of(model, batch))
        losses[-1].backward()
        found.append(gradients(model))
        if skip:
            assert counts[-1] == expected
    tolerance = 1e-5 if losses[0].dtype == torch.float32 else 1e-10
    torch.testing.assert_close(*losses, rtol=tolerance, atol=0)
    assert_close(*found, tolerance)


@pytest.mark.parametrize("name", SKIPPING)
def test_loss_and_gradients_are_those_of_all_rows(name, watch):
    batch = batch_for(name)
    assert read(batch) < every(batch)
    compare(name, batch, watch, read(batch))


def test_which_families_compute_all_rows():
    assert set(supported_types()) - set(SKIPPING) <= {"flaubert", "ibert", "squeezebert", "xlm"}


@pytest.mark.parametrize("name", SHAPES)
def test_as_many_rows_as_there_could_be(name, watch, monkeypatch):
    """As on a GPU, where nothing is counted."""
    monkeypatch.setattr(read_rows, "may_read_values", lambda x: False)
    batch = batch_for(name)
    bound = read(batch) + 3
    compare(name, {**batch, "max_read_rows": bound}, watch, bound)
    batch["max_read_rows"] = 5
    assert loss_of(build(name), batch).isnan()


def wide(name: str) -> dict[str, int]:
    """Windows in which every token sees another one."""
    return {"local_attention": 128} if name == "modernbert" else {}


def left_padded(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    moved = {name: x.clone() for name, x in batch.items() if isinstance(x, Tensor)}
    for b, shift in enumerate((batch["attention_mask"] == 0).sum(1).tolist()):
        for name in ("input_ids", "attention_mask", "labels"):
            moved[name][b] = batch[name][b].roll(shift)
        for name in INDICES:
            moved[name][b] = torch.where(batch[name][b] >= 0, batch[name][b] + shift, -1)
    return moved


@pytest.mark.parametrize("name", ["roberta", *NARROWED])
def test_left_padding_and_eager_attention(name, watch):
    batch = left_padded(make_batch())
    assert batch["attention_mask"][:, 0].min() == 0 and batch["attention_mask"][:, 0].max() == 1
    compare(name, batch, watch, read(batch), attn_implementation="eager", **wide(name))


@pytest.mark.parametrize("name", ["albert", "deberta", "roformer", *NARROWED])
def test_attentions_and_hidden_states(name, watch):
    """The former are of all rows anyway; for the latter all rows are computed."""
    batch = make_batch()
    options = {"attn_implementation": "eager", **wide(name)}
    model = build(name, **options).eval()
    counts, expected = watch(model), loss_of(build(name, False, **options).eval(), batch)
    shown = model(**batch, output_attentions=True)
    torch.testing.assert_close(shown.loss, expected, rtol=1e-10, atol=0)
    rows, length = batch["input_ids"].shape
    assert {x.shape for x in shown.attentions} == {(rows, 2, length, length)}
    assert len(shown.attentions) == model.config.num_hidden_layers
    assert counts[-1] == read(batch)
    whole = model(**batch, output_hidden_states=True)
    names = ("input_ids", "attention_mask", "token_type_ids")
    plain = model(**{key: batch[key] for key in names if key in batch}, output_hidden_states=True)
    torch.testing.assert_close(whole.loss, expected, rtol=1e-10, atol=0)
    for x, y in zip(whole.hidden_states, plain.hidden_states, strict=True):
        torch.testing.assert_close(x, y)
    assert counts[-1] == every(batch)
    model(**batch)  # the hooks that transformers leaves behind do nothing
    assert counts[-1] == read(batch)


class Lora(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs, **options):
        return self.inner(*inputs, **options)


def replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is old:
                parent._modules[key] = new


@pytest.mark.parametrize("name", SHAPES)
def test_changed_modules_compute_all_rows(name, watch):
    """Hooks, subclasses, wrappers and forwards of the user's, wherever the rows pass."""
    batch, model = batch_for(name), build(name).eval()
    expected = loss_of(build(name, False).eval(), batch)
    counts = watch(model)
    modules = model.layer_shape.find(model)
    around = [*modules.around, *(m for m in (modules.narrowed, modules.whole) if m is not None)]
    behind = [part for _, module in modules.behind for part in module.modules()]

    def check(rows: int) -> None:
        with torch.no_grad():
            torch.testing.assert_close(loss_of(model, batch), expected, rtol=1e-10, atol=0)
        assert counts[-1] == rows

    for module in [*around, *behind]:
        handles = [
            module.register_forward_hook(lambda *_: None),
            module.register_forward_pre_hook(lambda *_: None),
        ]
        check(every(batch))
        for handle in handles:
            handle.remove()
        forward = module.forward
        module.forward = lambda *inputs, forward=forward, **options: forward(*inputs, **options)
        check(every(batch))
        module.forward = forward  # the class's own method: nothing is changed
    check(read(batch))
    for module in [*modules.around[1:], *behind]:
        exact = type(module)
        module.__class__ = type("Subclass", (exact,), {})
        check(every(batch))
        module.__class__ = exact
    for module in behind:
        if isinstance(module, nn.Linear):
            wrapped = Lora(module)
            replace(model, module, wrapped)
            counted = len(counts)
            torch.testing.assert_close(loss_of(model, batch), expected, rtol=1e-10, atol=0)
            assert set(counts[counted:]) <= {every(batch)}
            replace(model, wrapped, module)
    if modules.whole is not None:
        wrapped = Lora(modules.whole)
        replace(model, modules.whole, wrapped)
        check(every(batch))
        replace(model, wrapped, modules.whole)
    check(read(batch))


@pytest.mark.parametrize("name", ["albert", "distilbert", "longformer", "roberta"])
def test_a_chunked_feed_forward_computes_all_rows(name):
    batch = full_batch(length=32)
    model = build(name, chunk_size_feed_forward=16)
    assert model.layer_shape.find(model) is None
    torch.testing.assert_close(loss_of(model, batch), loss_of(build(name), batch), rtol=1e-10, atol=0)


def test_decoders(watch):
    batch = make_batch()
    compare("roberta", batch, watch, read(batch), is_decoder=True)
    crossed = build("roberta", is_decoder=True, add_cross_attention=True)
    assert crossed.layer_shape.find(crossed) is None
    assert crossed(**batch).loss.isfinite()


@pytest.mark.parametrize("name", ["big_bird", "longformer"])
def test_encoders_that_pad_their_input(name, watch):
    """To a multiple of 4 or 8 here; the rows are counted through the longer sequences then."""
    batch = full_batch(length=37)
    compare(name, batch, watch, read(batch))
    batch = make_batch(rows=5, seed=2)
    compare(name, batch, watch, read(batch), dtype=torch.float32)


@pytest.mark.parametrize(
    ("layers", "groups", "inner", "calls"), [(4, 1, 1, 4), (5, 2, 1, 2), (3, 3, 2, 1), (6, 2, 2, 3)]
)
def test_only_the_last_call_of_alberts_last_layer_is_cut(layers, groups, inner, calls, watch):
    batch = make_batch()
    sizes = {"num_hidden_layers": layers, "num_hidden_groups": groups, "inner_group_num": inner}
    model = build("albert", **sizes)
    counts = watch(model)
    model(**batch)
    assert counts == [*[every(batch)] * (calls - 1), read(batch)]
    compare("albert", batch, watch, read(batch), **sizes)


def test_a_convolution_behind_the_last_layer_reads_all_rows():
    model = build("deberta-v2", num_hidden_layers=1)
    assert model.layer_shape.find(model) is None
    model = build("deberta-v2", num_hidden_layers=1, conv_kernel_size=0)
    assert model.layer_shape.find(model) is not None


@pytest.mark.parametrize(
    "name", [name for name in ("eurobert", "modernbert", "nomic_bert") if name in SKIPPING]
)
def test_layers_that_are_added_shared_or_not_called(name, watch):
    batch, model = make_batch(), build(name).eval()
    counts = watch(model)
    layers = list(model.base_model.layers)

    def check(expected: int | None) -> None:
        counts.clear()
        model.config.span_pretraining["skip_unread_rows"] = True
        found = model(**batch).loss
        if expected is not None:
            assert counts[-1] == expected
        model.config.span_pretraining["skip_unread_rows"] = False
        torch.testing.assert_close(found, model(**batch).loss, rtol=1e-10, atol=0)

    last = layers[-1]
    model.base_model.layers = nn.ModuleList([*layers, last])
    check(every(batch))
    model.base_model.layers = nn.ModuleList([*layers, copy.deepcopy(last)])
    check(None)  # it may not be called: as many as the configuration says are
    model.base_model.layers = nn.ModuleList(layers)
    check(read(batch))
    layers[0].mlp = last.mlp  # a module in two places, which has no hook
    check(read(batch))
    attention = model.layer_shape.find(model).around[2]
    for key, child in attention._modules.items():
        if child is model.layer_shape.find(model).first:
            first_layer = layers[0].get_submodule("attn" if name == "modernbert" else "self_attn")
            first_layer._modules[key] = child
    check(every(batch))


@pytest.mark.parametrize("name", ["albert", "modernbert"])
def test_threads_share_a_model(name):
    model = build(name).eval()
    batches = [make_batch(seed=seed) for seed in range(3)]
    with torch.no_grad():
        expected = [model(**batch).loss for batch in batches]

        def work(i: int) -> bool:
            with torch.no_grad():
                return all(torch.equal(model(**batches[i % 3]).loss, expected[i % 3]) for _ in range(10))

        with ThreadPoolExecutor(3) as threads:
            assert all(threads.map(work, range(6)))


@pytest.mark.parametrize("name", NARROWED)
def test_copies_skip_too(name, watch):
    model, batch = build(name).eval(), make_batch()
    expected = model(**batch).loss
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        counts = watch(twin)
        assert torch.equal(twin(**batch).loss, expected)
        assert counts == [read(batch)]


def test_a_checkpointed_layer_computes_all_rows(watch):
    batch, expected = make_batch(), build("modernbert", False)
    expected(**batch).loss.backward()
    model = build("modernbert")
    model.gradient_checkpointing_enable()
    counts = watch(model)
    model(**batch).loss.backward()
    assert counts == [every(batch)] * 2
    assert_close(gradients(model), gradients(expected), 1e-10)


@pytest.mark.parametrize(("name", "layers"), [("albert", 2), ("mpnet", 1)])
def test_compiled_whole(name, layers):
    """One graph, whose last layer has as many rows as the bound says."""
    model, batch = build(name, num_hidden_layers=layers), make_batch()
    expected = model(**batch).loss
    expected.backward()
    grads, shapes = gradients(model), []
    model.zero_grad()

    def record(graph: torch.fx.GraphModule, inputs: list) -> torch.fx.GraphModule:
        shapes.extend(getattr(node.meta.get("example_value"), "shape", ()) for node in graph.graph.nodes)
        return graph

    bound = read(batch) + 3
    found = torch.compile(model, backend=record, fullgraph=True)(**{**batch, "max_read_rows": bound}).loss
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    assert_close(gradients(model), grads, 1e-10)
    wide = [tuple(shape[:-1]) for shape in shapes if len(shape) == 3 and shape[-1] == 64]
    whole = tuple(batch["input_ids"].shape)
    assert set(wide[-2:]) == {(1, bound)} and (whole in wide) == (layers > 1)
    torch._dynamo.reset()
