# SPDX-License-Identifier: Apache-2.0
"""Parameters that are sharded by `fully_shard`, on one process; on two in test_two_processes.py."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import gradients, make_batch, make_model, one_thread, untie  # noqa: F401
from torch import distributed
from torch.distributed.fsdp import fully_shard

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # what is called

WAYS = {
    "the SBO": ["sbo"],
    "the decoder": ["cls.predictions.decoder"],
    "the MLM head": ["cls.predictions.decoder", "cls"],
    "layers and the model": ["bert.encoder.layer.0", "bert.encoder.layer.1", ""],
    "everything": ["bert.encoder.layer.0", "bert.encoder.layer.1", "cls.predictions.transform", "sbo", ""],
}


def compare(processes: int, way: str) -> str:
    """How the sharded model's losses and gradients differ from the whole one's: nothing if they do not."""
    batch = make_batch()
    model = make_model().double()
    if "cls.predictions.decoder" in WAYS[way]:  # a tied matrix belongs to the embeddings too
        untie(model)
    plain = copy.deepcopy(model)
    mesh = distributed.device_mesh.init_device_mesh("cpu", (processes,))
    for path in WAYS[way]:
        fully_shard(model.get_submodule(path), mesh=mesh)
    plain(**batch).loss.backward()
    losses = []
    for _ in range(2):
        model.zero_grad()
        losses.append(model(**batch).loss)
        losses[-1].backward()
    found = gradients(model)
    found = {name: x.full_tensor() if hasattr(x, "full_tensor") else x for name, x in found.items()}
    model.eval()
    with torch.no_grad():
        losses.append(model(**batch).loss)
        wanted = [plain(**batch).loss] * 2 + [plain.eval()(**batch).loss]
    try:
        torch.testing.assert_close(losses, wanted, rtol=1e-9, atol=0)
        torch.testing.assert_close(found, gradients(plain), rtol=1e-8, atol=1e-10)
    except AssertionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("way", WAYS)
def test_the_loss_and_gradients_are_those_of_the_whole_model(way, tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert compare(1, way) == ""
    finally:
        distributed.destroy_process_group()


def test_a_decoder_that_the_span_boundary_head_cannot_call(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model, batch = make_model(), make_batch()
        untie(model)
        mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
        for module in (model.cls, model):
            fully_shard(module, mesh=mesh)
        with pytest.raises(RuntimeError, match=r"cls.predictions.decoder has a weight of the type .*DTensor"):
            model(**batch)
        for name in ("left_boundary", "right_boundary"):
            del batch[name]
        assert model(**batch).loss.isfinite()
    finally:
        distributed.destroy_process_group()
