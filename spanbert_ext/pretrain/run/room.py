# SPDX-License-Identifier: Apache-2.0
"""Whether the disk has room for a run's checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import PreTrainedModel

from spanbert_ext.files.disk import megabytes, size_of
from spanbert_ext.pretrain.run.checkpoints import RunError
from spanbert_ext.pretrain.run.saving import KEPT


def check_room(model: PreTrainedModel, folder: Path, *, sharded: bool = False) -> None:
    """Raises `RunError` unless `folder`'s disk can take the checkpoints of `model` that are kept, the one that is being
    written and the result; those that are there already count, since they go away or are kept.

    sharded: whether training shards the model, whose weights are twice in a checkpoint then."""
    weights = sum(x.numel() * x.element_size() for x in model.parameters())
    trained = sum(x.numel() * x.element_size() for x in model.parameters() if x.requires_grad)
    # AdamW has two numbers for each trained one
    needed = (KEPT + 1) * ((1 + sharded) * weights + 2 * trained) + weights
    there = size_of(folder)
    free = shutil.disk_usage(folder).free
    if free + there < needed:
        raise RunError(
            f"--output {folder} has {megabytes(free)} free, but checkpoints and model take {megabytes(needed)}:"
            " free space or choose another folder"
        )
