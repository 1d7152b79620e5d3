# SPDX-License-Identifier: Apache-2.0
"""Whether the disk has room for a run's checkpoints and its result, or each of the disks, where they are two."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import PreTrainedModel

from spanbert_ext.files.disk import megabytes, size_of
from spanbert_ext.pretrain.run.checkpoints import CHECKPOINTS, RunError
from spanbert_ext.pretrain.run.saving import KEPT


def check_room(model: PreTrainedModel, folder: Path, *, sharded: bool = False) -> None:
    """Raises `RunError` unless the disk can take the checkpoints of `model` that are kept, the one that is being
    written and the result; those that are there already count, since they go away or are kept.

    folder: of the run, in which the folder of checkpoints may be a link to another disk. sharded: whether training
    shards the model, whose weights are twice in a checkpoint then."""
    weights = sum(x.numel() * x.element_size() for x in model.parameters())
    trained = sum(x.numel() * x.element_size() for x in model.parameters() if x.requires_grad)
    # AdamW has two numbers for each trained one
    kept = (KEPT + 1) * ((1 + sharded) * weights + 2 * trained)
    checkpoints = folder / CHECKPOINTS
    linked = checkpoints.is_symlink()
    there = size_of(checkpoints.resolve()) if linked else 0  # `size_of` follows no link to a folder
    if linked and checkpoints.stat().st_dev != folder.stat().st_dev:
        _check(f"--output {folder}", folder, size_of(folder), "the model takes", weights)
        _check(f"{checkpoints}", checkpoints, there, "checkpoints take", kept)
    else:
        what = "checkpoints and model take"
        _check(f"--output {folder}", folder, size_of(folder) + there, what, kept + weights)


def _check(name: str, folder: Path, there: int, what: str, needed: int) -> None:
    """there, needed: bytes."""
    free = shutil.disk_usage(folder).free
    if free + there < needed:
        raise RunError(
            f"{name} has {megabytes(free)} free, but {what} {megabytes(needed)}: free space or choose another"
            " folder"
        )
