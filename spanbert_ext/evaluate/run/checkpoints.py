# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints an evaluation compares, and how their content is known again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download

from spanbert_ext.evaluate.tasks.form import Checkpoint, EvaluationError
from spanbert_ext.evaluate.tasks.loading import TOKENIZER_FILES
from spanbert_ext.files.disk import sha256_of
from spanbert_ext.files.messages import reason
from spanbert_ext.files.paths import given_path

# The files of a folder that a tokenizer and a model are loaded from, safetensors before the older kind.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_BESIDE = (
    "config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    *TOKENIZER_FILES,
)


def find_checkpoints(given: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints that `[NAME=]FOLDER` or `[NAME=]HUB_NAME` name. Several of one NAME are one system from several
    pre-training seeds, numbered in their order. Without NAME each is a system, called by the shortest end of its path
    that tells it from the others. Raises `EvaluationError`."""
    named = [_name_and_place(text) for text in given]
    ends = iter(_shortest_ends([place for name, place in named if name is None]))
    names = [next(ends) if name is None else name for name, _ in named]
    for name, (own, _) in zip(names, named, strict=True):
        if own is None and names.count(name) > 1:
            raise EvaluationError(f"two checkpoints are called {name!r}: name them, NAME={name}")
    checkpoints: list[Checkpoint] = []
    for name, (_, place) in zip(names, named, strict=True):
        folder = _local(place)
        digest = digest_of(folder)
        same = [other for other in checkpoints if other.name == name]
        if twin := next((other for other in same if other.digest == digest), None):
            raise EvaluationError(
                f"{name}: {twin.folder} and {folder} are the same checkpoint, expected other seeds"
            )
        seed = str(len(same) + 1) if names.count(name) > 1 else ""
        checkpoints.append(Checkpoint(name, folder, digest, seed))
    return checkpoints


def digest_of(folder: Path) -> str:
    """A hash of what is loaded from a folder: weights, configuration, tokenizer. Raises `EvaluationError`."""
    weights = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if weights is None or not (folder / "config.json").is_file():
        missing = "config.json" if weights else f"weights ({' or '.join(_WEIGHTS[::2])})"
        raise EvaluationError(f"{folder} is no checkpoint: it holds no {missing}")
    files = [weights, *(folder / name for name in _BESIDE)]
    if weights.name.endswith(".index.json"):
        suffix = weights.name.removesuffix(".index.json").rpartition(".")[2]
        files += sorted(folder.glob(f"*-of-*.{suffix}"))
    total = hashlib.sha256()
    for file in files:
        if file.is_file():
            total.update(f"{file.name} {sha256_of(file)}\n".encode())
    return total.hexdigest()


def _name_and_place(text: str) -> tuple[str | None, str]:
    name, equals, place = text.partition("=")
    if not equals or _is_there(text):
        name, place = "", text
    if (equals and not name.strip() and place != text) or not place.strip():
        raise EvaluationError(f"checkpoint {text!r}: expected FOLDER or NAME=FOLDER")
    return name.strip() or None, place


def _is_there(place: str) -> bool:
    """Also of a text that is too long for the name of a file, which pathlib's own question ends by an error."""
    return os.path.exists(given_path(place))


def _shortest_ends(places: Sequence[str]) -> list[str]:
    parts = [
        given_path(place).absolute().parts if _is_there(place) else Path(place).parts for place in places
    ]
    found = []
    for own in parts:
        depth = 1
        while depth < len(own) and sum(other[-depth:] == own[-depth:] for other in parts) > 1:
            depth += 1
        found.append(str(Path(*own[-depth:])))
    return found


def _local(place: str) -> Path:
    """The folder of a checkpoint; of one on the Hugging Face hub that of its copy."""
    folder = given_path(place)
    if os.path.isdir(folder):
        return folder
    if _is_there(place):
        raise EvaluationError(f"checkpoint {place} is a file; expected a folder that save_pretrained wrote")
    if place.startswith((".", "/", "~")) or place.count("/") > 1:
        raise EvaluationError(
            f"checkpoint {place} is not there; expected a folder that save_pretrained wrote"
        )
    try:
        safe = snapshot_download(place, allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"])
        if not any((Path(safe) / name).is_file() for name in _WEIGHTS):
            safe = snapshot_download(place, allow_patterns=["*.json", "*.txt", "*.model", "*.bin"])
    except Exception as error:  # no such name, no network
        raise EvaluationError(
            f"checkpoint {place!r} is neither a folder nor a model on the Hugging Face hub: {reason(error)}"
        ) from error
    return Path(safe)
