# SPDX-License-Identifier: Apache-2.0
"""torch.compile of a whole step, family by family."""

from __future__ import annotations

import pytest
import torch
from families_samples import family_config
from pair_samples import pair_batch, pair_model
from tiny_models import INDICES, assert_close, gradients, make_batch, one_thread, same_step  # noqa: F401

from spanbert_ext.models.native_classes import supported_types
from spanbert_ext.models.pretraining import SpanBertForPreTraining

# Their encoders, as transformers has them, draw with NumPy, read values on the host or load
# kernels in a training step.
BROKEN_GRAPHS = {"big_bird", "ibert", "longformer", "mra", "yoso"}
ONE_LAYER = {"distilbert": "n_layers", "flaubert": "n_layers", "xlm": "n_layers"}


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted({*supported_types()} - BROKEN_GRAPHS))
def test_a_step_is_one_graph(model_type):
    torch.manual_seed(0)
    config = family_config(model_type, **{ONE_LAYER.get(model_type, "num_hidden_layers"): 1})
    model, batch = SpanBertForPreTraining(config, position_dim=24), make_batch(4)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels", *INDICES)}
    same_step(model, torch.compile(model, backend="eager", fullgraph=True), inputs, 1e-6, of_gradients=1e-5)


@pytest.mark.slow
def test_a_step_with_pairs_is_one_graph():
    batch = pair_batch(4, row_bounds=False)
    model = pair_model().double()
    expected = model(**batch)
    expected.loss.backward()
    plain = gradients(model)
    model.zero_grad()
    found = torch.compile(model, backend="aot_eager", fullgraph=True)(**batch)
    found.loss.backward()
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.nsp_statistics, expected.nsp_statistics)
    assert_close(gradients(model), plain, 1e-10)
