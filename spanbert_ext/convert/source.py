# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's name stands for: a file, a folder, or a name on the hub."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import snapshot_download

from spanbert_ext.convert.checkpoint_file import CheckpointError
from spanbert_ext.convert.fairseq import build_model, read_fairseq
from spanbert_ext.convert.model_folders import (
    CONFIG_FILE,
    OLD_CONFIG_FILE,
    Loaded,
    load_model_folder,
    loaded,
)
from spanbert_ext.files.messages import reason
from spanbert_ext.files.paths import given_path

_SMALL_FILES = ("*.json", "*.txt", "*.model")


def local_path(name: str) -> Path:
    """The file or folder that `name` is, downloaded where it is a name on the hub. Raises `CheckpointError`."""
    path = given_path(name)
    if os.path.exists(path):
        return path
    if len(path.parts) > 2 or path.suffix in (".pt", ".bin", ".safetensors") or path.is_absolute():
        raise CheckpointError(f"{name} does not exist")  # a hub name has at most one slash
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*_SMALL_FILES, "model*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(name, allow_patterns=[*_SMALL_FILES, "pytorch_model*.bin"])
    except Exception as error:  # no network, no such name, no permission: many types
        raise CheckpointError(f"{name} is no file or folder; as a hub name: {reason(error)}") from error
    return folder


def load_source(path: Path, num_attention_heads: int | None = None, progress: bool = False) -> Loaded:
    """The model in a file of the published code, or in a folder.

    A folder without a configuration is one as the published archive leaves it: the only *.pt in it is meant.

    Raises:
        CheckpointError: naming the file, key or option.
    """
    if path.is_dir() and not any((path / name).is_file() for name in (CONFIG_FILE, OLD_CONFIG_FILE)):
        files = sorted(path.glob("*.pt"))
        if len(files) != 1:
            found = f"it has {len(files)} files *.pt" if files else "it has no *.pt either"
            raise CheckpointError(
                f"{path} has no {CONFIG_FILE}, and is no folder with one checkpoint of fairseq: {found}"
            )
        path = files[0]
    if path.is_dir():
        if num_attention_heads is not None:
            raise CheckpointError(
                f"--attention-heads is {num_attention_heads}, but the {CONFIG_FILE} of {path} says it: leave it out"
            )
        return load_model_folder(path, progress)
    checkpoint = read_fairseq(path, num_attention_heads, progress)
    form = "tensors with the arguments of a run" if checkpoint.has_arguments else "a dictionary of tensors"
    prefix = ", decoder. before the keys" if checkpoint.state.prefixed else ""
    model = build_model(checkpoint.state, checkpoint.config)
    return loaded(model, f"fairseq checkpoint, {form}{prefix}", checkpoint.state)
