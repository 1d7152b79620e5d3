# SPDX-License-Identifier: Apache-2.0
"""What of a launcher's settings a run refuses at its beginning; sharded runs are in test_many_processes.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("transformers")

import tiny_runs
from accelerate.utils import DistributedType
from tiny_models import make_batch, make_model, one_thread  # noqa: F401
from torch import distributed
from torch.distributed.fsdp import fully_shard

from spanbert_ext.pretrain.run import sharding
from spanbert_ext.pretrain.run.checkpoints import RunError
from spanbert_ext.pretrain.settings.options import OptionError

SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def refused(monkeypatch, found: DistributedType, **settings: str) -> str:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sharding, "PartialState", lambda cpu: SimpleNamespace(distributed_type=found))
    try:
        sharding.check_launch(cpu=False)
    except OptionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed, which spanbert-pretrain cannot use"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM, which"),
        (SHARDED | {"FSDP_VERSION": "1"}, "expected --fsdp_version 2"),
        (SHARDED | {"FSDP_OFFLOAD_PARAMS": "true"}, "--fsdp_offload_params true: expected false"),
        (SHARDED | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "--fsdp_activation_checkpointing true"),
    ],
)
def test_what_a_run_cannot_take(monkeypatch, settings, said):
    assert said in refused(monkeypatch, DistributedType.MULTI_GPU, **settings)


def test_what_it_takes(monkeypatch):
    assert refused(monkeypatch, DistributedType.MULTI_CPU) == ""
    assert refused(monkeypatch, DistributedType.MULTI_GPU, **SHARDED) == ""


def test_on_cpus_accelerate_would_shard_nothing_and_say_nothing(monkeypatch, tmp_path, capsys):
    assert "whole copies of it on CPUs" in refused(monkeypatch, DistributedType.MULTI_CPU, **SHARDED)
    errors = tiny_runs.error_of(capsys, 2, "--output", str(tmp_path / "out"))
    assert "launch without --use_fsdp" in errors and not (tmp_path / "out").exists()


def test_checkpoints_of_a_sharded_model_are_chosen_to_be_whole(monkeypatch):
    for name in ("FSDP_STATE_DICT_TYPE", "FSDP_CPU_RAM_EFFICIENT_LOADING"):
        monkeypatch.delenv(name, raising=False)
    sharding.choose_settings()
    assert "FSDP_STATE_DICT_TYPE" not in sharding.os.environ
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    sharding.choose_settings()
    assert sharding.os.environ["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    assert sharding.os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"


@pytest.mark.parametrize("saved", [False, True])
def test_a_checkpoint_goes_on_as_it_began(tmp_path, saved):
    if saved:
        (tmp_path / "pytorch_model_fsdp.bin").touch()
    sharding.check_kind(tmp_path, SimpleNamespace(is_fsdp_enabled=saved))
    with pytest.raises(RunError, match="was sharded: .* --use_fsdp" if saved else "not sharded: .* without"):
        sharding.check_kind(tmp_path, SimpleNamespace(is_fsdp_enabled=not saved))


def test_infinities_are_found_in_shards(tmp_path):
    model = make_model()
    assert sharding.all_finite(model.parameters())
    model.sbo.bias.data[3] = torch.inf
    assert not sharding.all_finite(model.parameters())
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
        fully_shard(model, mesh=mesh)
        assert not sharding.all_finite(model.parameters())
        model.sbo.bias.data.to_local()[3] = 0
        assert sharding.all_finite(model.parameters())
    finally:
        distributed.destroy_process_group()


def test_the_fused_heads_read_a_sharded_model(tmp_path, recwarn):
    """The decoder and the last layer are what they know: no module is called in the place of its parameters."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        trainer = sharding.ShardedModel()
        trainer.model, trainer.is_fsdp_enabled = make_model(), True
        trainer.args = SimpleNamespace(device=torch.device("cpu"))
        plugin = SimpleNamespace(reshard_after_forward=True, auto_wrap_policy="anything")
        trainer.accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))
        batch = make_batch()
        expected = make_model()(**batch).loss
        trainer.shard()
        torch.testing.assert_close(trainer.model(**batch).loss, expected)
        assert type(trainer.model.cls.predictions.decoder) is torch.nn.Linear
        layers = trainer.model.bert.encoder.layer
        assert [type(layer).__name__ for layer in layers] == ["FSDPBertLayer", "BertLayer"]
        assert not [str(w.message) for w in recwarn if "call" in str(w.message)]
    finally:
        distributed.destroy_process_group()
