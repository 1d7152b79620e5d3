# SPDX-License-Identifier: Apache-2.0
"""torch.compile, of the model as one graph and of its layers: no graph break, no recompilation, the same numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import (  # noqa: F401
    INDICES,
    full_batch,
    make_batch,
    make_model,
    one_thread,
    same_step,
    skewed_batch,
    tiny_config,
)
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import BertForMaskedLM

from spanbert_ext import SpanBertForPreTraining
from spanbert_ext.masking.row_bounds import HostNumber
from spanbert_ext.models.read_rows import mark_read


@pytest.fixture(autouse=True)
def fresh_caches():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def last_layer() -> SpanBertForPreTraining:
    """A model of one layer: all of the encoder that differs by what the heads read."""
    torch.manual_seed(0)
    return SpanBertForPreTraining(tiny_config(num_hidden_layers=1), position_dim=24).double()


class TestWholeModel:
    @pytest.mark.parametrize(
        ("make", "backend"),
        [(make_batch, "aot_eager"), (full_batch, "eager"), (skewed_batch, "aot_eager")],
        ids=["padded", "full", "bounds"],
    )
    def test_one_graph(self, make, backend):
        """Without padding it is the padded batch's graph less the mask: nothing that the other two do not trace."""
        batch = make()
        model, counter = make_model().double(), CompileCounterWithBackend(backend)
        twin = make_model().double()
        twin.compile(backend=counter, fullgraph=True)
        same_step(model, twin, batch)
        assert counter.frame_count == 1

    def test_masked_positions_alone_and_labels_alone(self):
        batch = full_batch(row_bounds=False)
        names = ("input_ids", "attention_mask", "labels")
        for given, backend in (((*names, "masked_positions"), "eager"), (names, "aot_eager")):
            torch._dynamo.reset()
            model = last_layer()
            twin = copy.deepcopy(model)
            twin.compile(backend=backend, fullgraph=True)
            same_step(model, twin, {name: batch[name] for name in given})

    @pytest.mark.parametrize("kind", [int, HostNumber])
    @pytest.mark.parametrize("name", ["max_rows", "max_read_rows"])
    def test_bounds_do_not_recompile(self, name, kind):
        """The first bound is a constant of its graph, the second makes a graph of all others."""
        batch = skewed_batch(row_bounds=False)
        model, counter = last_layer(), CompileCounterWithBackend("eager")
        expected = model(**batch).loss
        model.compile(backend=counter, fullgraph=True)
        for bound in (512, 768, 1024, 1792):
            torch.testing.assert_close(
                model(**batch, **{name: kind(bound)}).loss, expected, rtol=1e-12, atol=0
            )
        assert counter.frame_count == 2

    def test_ragged_batches_share_two_graphs(self):
        """One of the first batch's sizes, one of all others."""
        model, counter = make_model().double().eval(), CompileCounterWithBackend("eager")
        twin = copy.deepcopy(model)
        twin.compile(backend=counter, fullgraph=True)
        shapes = set()
        for seed in range(10):
            batch = make_batch(rows=4 + seed, seed=seed, row_bounds=False)
            shapes.add(batch["masked_positions"].shape)
            same_step(model, twin, batch)
        assert len(shapes) == 10
        assert counter.frame_count <= 2


class TestLayers:
    """The recipe for GPUs: compile the layers but the last, which stays as it is and skips the rows that no head reads.

    The mask is then made outside of what is compiled, and is None for a batch without padding.
    """

    LAYERS = 10  # torch compiles at most eight graphs of one piece of code, which all layers share

    def compiled(self, make) -> tuple:
        torch.manual_seed(0)
        model = make(tiny_config(num_hidden_layers=self.LAYERS)).double()
        twin, counter = copy.deepcopy(model), CompileCounterWithBackend("aot_eager")
        for layer in twin.bert.encoder.layer[:-1]:
            layer.compile(backend=counter, fullgraph=True)
        return model, twin, counter

    def test_ours(self, rows_computed):
        model, twin, counter = self.compiled(SpanBertForPreTraining)
        computed = rows_computed(twin)
        read = []
        for seed in range(3):
            batch = full_batch(seed=seed)
            same_step(model, twin, batch)
            read.append(int(mark_read([batch[name] for name in INDICES], *batch["labels"].shape).sum()))
        assert counter.frame_count == 1  # of nine layers and three batches
        assert computed == read and len(set(read)) == 3
        for seed in range(2):  # with a mask
            same_step(model, twin, make_batch(seed=seed))
        assert counter.frame_count <= 3

    def test_transformers_own_model(self):
        model, twin, counter = self.compiled(BertForMaskedLM)
        for seed in range(2):
            batch = full_batch(seed=seed)
            # without a mask: transformers would have to read it
            same_step(model, twin, {name: batch[name] for name in ("input_ids", "labels")})
        assert counter.frame_count == 1
