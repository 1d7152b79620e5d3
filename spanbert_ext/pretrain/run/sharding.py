# SPDX-License-Identifier: Apache-2.0
"""Runs whose model is sharded over their processes (FSDP2), as `accelerate launch --use_fsdp --fsdp_version 2` asks.

accelerate would shard a BERT's embeddings with its decoder, apart from the decoder's bias, which belongs to another
module too: torch refuses that. So the model is sharded here, in parts in which a decoder and a last layer stay what the
fused heads know. The rest is left to accelerate."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import DistributedType
from accelerate.utils.constants import FSDP_MODEL_NAME
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, Trainer

from spanbert_ext.pretrain.run.checkpoints import RunError
from spanbert_ext.pretrain.run.model_flops import encoder_layers
from spanbert_ext.pretrain.settings.options import OptionError

_OTHERS = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
_REFUSED = {
    "FSDP_OFFLOAD_PARAMS": "--fsdp_offload_params",
    "FSDP_ACTIVATION_CHECKPOINTING": "--fsdp_activation_checkpointing",
}


def choose_settings() -> None:
    """To be called before accelerate reads its settings. Checkpoints of a sharded model are whole tensors, which the
    first process writes: torch's sharded format has an index that is unpickled, and so may run code of others. Every
    process loads the model that it takes its shards of."""
    if _is_set("ACCELERATE_USE_FSDP"):
        os.environ |= {"FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false"}


def check_launch(cpu: bool) -> None:
    """Raises `OptionError` for what a launcher set up and a run cannot take. cpu: whether it trains on CPUs."""
    for variable, name in _OTHERS.items():
        if _is_set(variable):
            raise OptionError(
                f"accelerate launch was asked for {name}, which spanbert-pretrain cannot use: launch without it, or"
                " with --use_fsdp --fsdp_version 2 for a model that is too large for one GPU"
            )
    if not _is_set("ACCELERATE_USE_FSDP"):
        return
    if PartialState(cpu=cpu).distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU):
        raise OptionError(
            "accelerate launch --use_fsdp shards a model over GPUs, and accelerate trains whole copies of it on CPUs:"
            " launch without --use_fsdp"
        )
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise OptionError(
            f"accelerate launch --use_fsdp with --fsdp_version {version}, whose flat parameters have no names for"
            " weight decay and no shapes for checkpoints: expected --fsdp_version 2"
        )
    for variable, flag in _REFUSED.items():
        if _is_set(variable):
            raise OptionError(f"accelerate launch --use_fsdp with {flag} true: expected false")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"


class ShardedModel:
    """A Trainer (mixed in before it) whose `shard` all processes call before it trains, evaluates or restores."""

    model: PreTrainedModel
    _sharded: list[list[nn.Parameter]] | None = None  # the optimizer's parameters, by group

    def shard(self) -> None:
        """Shards the model over the processes where the launcher asks for it: each layer of the encoder but the last by
        itself; that one and both ends of the model together, whole from the beginning of a step's forward pass to the
        end of its backward pass. Numbers stay float32 on the way: a run learns what it does unsharded."""
        if not self.is_fsdp_enabled:
            return
        plugin, device = self.accelerator.state.fsdp_plugin, self.args.device
        self.model.to(device)
        for x in (*self.model.parameters(), *self.model.buffers()):
            dist.broadcast(x.data, src=0)
        found = encoder_layers(self.model)
        for layer in [] if found is None else found[1][:-1]:
            fully_shard(layer, reshard_after_forward=plugin.reshard_after_forward)
        fully_shard(self.model)
        plugin.auto_wrap_policy = None  # nothing is left to wrap
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # trial steps had the whole model

    def autocast_smart_context_manager(self, *args: Any, **kwargs: Any) -> contextlib.AbstractContextManager:
        """accelerate puts autocast around the forward pass of every model but one that is sharded, whose parameters it
        would cast in their place."""
        if self.is_fsdp_enabled:
            return self.accelerator.autocast()
        return super().autocast_smart_context_manager(*args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.is_fsdp_enabled:
            self._sharded = [list(group["params"]) for group in optimizer.param_groups]
        return optimizer

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """The first thing that follows when accelerate has taken the optimizer. It looks for the optimizer's parameters
        by their addresses, and those of which a process has no row, as of a matrix of two rows, have none."""
        if self._sharded is not None:
            for group, parameters in zip(self.optimizer.param_groups, self._sharded, strict=True):
                group["params"] = parameters
        return super().create_scheduler(*args, **kwargs)


def check_kind(checkpoint: Path, trainer: Trainer) -> None:
    """Raises `RunError` when a checkpoint is of a run whose model was sharded and this one's is not, or the other way
    round."""
    sharded = (checkpoint / f"{FSDP_MODEL_NAME}.bin").is_file()
    if sharded and not trainer.is_fsdp_enabled:
        raise RunError(
            f"{checkpoint} is of a model that was sharded: resume it by accelerate launch --use_fsdp --fsdp_version 2"
        )
    if trainer.is_fsdp_enabled and not sharded:
        raise RunError(f"{checkpoint} is of a model that was not sharded: resume it without --use_fsdp")


def all_finite(parameters: Iterable[Tensor]) -> bool:
    """Whether no parameter, whole or sharded, holds NaN or an infinity; the same in all processes."""
    parameters = list(parameters)
    finite = torch.stack([_local(x.detach()).isfinite().all() for x in parameters]).all()
    if any(isinstance(x, DTensor) for x in parameters):
        finite = finite.int()
        dist.all_reduce(finite, op=dist.ReduceOp.MIN)
    return bool(finite)


def _local(x: Tensor) -> Tensor:
    return x.to_local() if isinstance(x, DTensor) else x
