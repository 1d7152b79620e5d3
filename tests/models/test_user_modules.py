"""Modules of the user's in the places of the model's own, and what the model cannot use of them."""

from __future__ import annotations

import queue

import pytest
import torch
from test_fused_path import LAST, along, assert_right, warned  # noqa: F401
from tiny_models import make_batch, make_model, one_thread  # noqa: F401
from torch import nn
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
