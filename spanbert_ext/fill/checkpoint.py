# SPDX-License-Identifier: Apache-2.0
"""A model to ask, with its tokenizer: out of a run's folder, a saved folder or the hub, with what it lacks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from spanbert_ext.convert.checkpoint_file import CheckpointError as UnreadableFile
from spanbert_ext.convert.checkpoint_file import read_checkpoint_file
from spanbert_ext.convert.model_folders import check_shapes, weight_files, why_not_loaded
from spanbert_ext.convert.published_names import SBO
from spanbert_ext.convert.published_state import listed
from spanbert_ext.convert.vocabulary import in_its_case
from spanbert_ext.files.bars import quiet_transformers
from spanbert_ext.files.messages import reason
from spanbert_ext.files.paths import empty_name, given_path
from spanbert_ext.fill.predictions import missing_sbo
from spanbert_ext.masking.row_ends import REMEDY, without_row_ends
from spanbert_ext.models.pretraining import SpanBertForPreTraining

_OF_TOKENIZERS = ("*token*.json", "*vocab*", "*.model", "merges.txt")


class CheckpointError(ValueError):
    """A model or its tokenizer cannot be loaded; the message names it and the reason."""


class Checkpoint(NamedTuple):
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    without_sbo: str | None  # why its span-boundary head says nothing; None where it has a trained one
    notes: tuple[str, ...]  # what a user should know


def load_checkpoint(name: str, tokenizer: str | None = None, device: str = "auto") -> Checkpoint:
    """Raises `CheckpointError`: a name is empty, or there is no such model; its file has no weights for the encoder or
    the MLM head, which would be random; it has no tokenizer; there is no such device.

    Args:
        name: the output folder of spanbert-pretrain, of which an unfinished run gives its newest checkpoint, a folder
            that `save_pretrained` has written, or a name on the Hugging Face hub.
        tokenizer: the same of a tokenizer, in place of the model's own.
        device: of torch; "auto": a GPU where there is one.
    """
    names = {"CHECKPOINT": name, "--tokenizer": tokenizer}
    if wrong := empty_name(names, "a folder, or a name on the hub"):
        raise CheckpointError(wrong)
    place = _device(device)
    source, own_tokenizer, notes = _find(name)
    with quiet_transformers():
        model, missing, unexpected, refused = _load_model(source, name)
        loaded_tokenizer = _load_tokenizer(tokenizer or own_tokenizer, tokenizer is not None, name)
    others = [key for key in missing if not key.startswith("sbo.")]
    if others:
        raise CheckpointError(
            f"{name} has no weights for {others[0]}{f' and {len(others) - 1} more' * (len(others) > 1)}: a masked "
            "language model is asked, and its head would be random (an encoder alone, or a model fine-tuned for "
            "another task?)"
        )
    without = refused or missing_sbo(model)
    if any(key.startswith("sbo.") for key in missing):
        without = f"{name} has no weights of a span-boundary head"
        if any(key.startswith(SBO) for key in unexpected):
            without += " but those under its published names (spanbert-convert reads them)"
    elif without is None and _trained_without_sbo(source):
        without = f"the run in {name} trained without the span-boundary objective"
    if ends := without_row_ends(loaded_tokenizer):
        notes += (f"{ends}, as the rows of spanbert-pretrain have them: {REMEDY}",)
    if lost := [key for key in unexpected if _changes_the_encoder(key, model.base_model_prefix)]:
        notes += (
            f"the model that config.json describes has no place for {listed(lost)}, and computes without",
        )
    try:
        model = model.to(place).eval()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise CheckpointError(f"--device {device}: {reason(error)}") from error
    return Checkpoint(model, loaded_tokenizer, without, notes)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CheckpointError(f"--device {name!r} is none: {reason(error)}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"--device is {name} but torch finds no usable GPU")
    return device


def _find(name: str) -> tuple[str, str, tuple[str, ...]]:
    """Where the model is, where its tokenizer, and what to say of that."""
    path = given_path(name)
    if os.path.isfile(path):
        raise CheckpointError(
            f"{name} is a file; expected the folder of a model (spanbert-convert makes one of model.pt)"
        )
    if not os.path.isdir(path):
        if len(Path(name).parts) > 2 or name.startswith((".", "~", "/")):
            raise CheckpointError(
                f"{name!r} does not exist; expected the folder of a model, or a name on the hub"
            )
        return name, name, ()
    if (path / "config.json").is_file():
        return str(path), str(path), ()
    if not (path / "run.json").is_file():
        raise CheckpointError(
            f"{name} holds neither a model (config.json) nor a run of spanbert-pretrain (run.json)"
        )
    steps = {
        int(folder.name[11:]): folder
        for folder in path.glob("checkpoints/checkpoint-*")
        if folder.name[11:].isdigit() and (folder / "config.json").is_file()
    }
    if not steps:
        raise CheckpointError(f"the run in {name} is not finished and has no checkpoint yet")
    newest = max(steps)
    note = f"the run in {name} is not finished: this is its checkpoint of step {newest:,}"
    return str(steps[newest]), str(path / "tokenizer"), (note,)


def _load_tokenizer(source: str, given: bool, name: str) -> PreTrainedTokenizerBase:
    """`given`: by the user."""
    remedy = "" if given else "; --tokenizer names one"
    folder = given_path(source) if os.path.isdir(given_path(source)) else None
    if folder is not None and not any(file for pattern in _OF_TOKENIZERS for file in folder.glob(pattern)):
        raise CheckpointError(f"{source} has no tokenizer{remedy}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder or source), trust_remote_code=False)
        return in_its_case(tokenizer, tokenizer.model_max_length)
    except Exception as error:  # missing files, no network, not a tokenizer: many types
        what = f"tokenizer {source!r}" if given else f"the tokenizer of {name!r}"
        raise CheckpointError(f"cannot load {what}: {reason(error).rstrip('.')}{remedy}") from error


def _load_model(source: str, name: str) -> tuple[PreTrainedModel, list[str], list[str], str | None]:
    """The model, the names of the weights that it has by chance, those that it has no place for, and why a model of
    ours is loaded without its span-boundary head."""
    options = {
        "output_loading_info": True,
        "trust_remote_code": False,
        "ignore_mismatched_sizes": True,  # or it is refused without the key
    }
    refused = None
    try:
        try:
            model, found = SpanBertForPreTraining.from_pretrained(source, **options)
        except ValueError as error:  # a family without a span-boundary head here, or a wrong option
            model, found = AutoModelForMaskedLM.from_pretrained(source, **options)
            if hasattr(model.config, "span_pretraining"):
                refused = f"the span-boundary head of {name} cannot be loaded: {reason(error)}"
        check_shapes(found, name)
    except UnreadableFile as error:
        raise CheckpointError(str(error)) from error
    except Exception as error:  # missing or damaged files, no network, unknown type
        _refuse_pickles(source)
        raise CheckpointError(f"cannot load model {name!r}: {why_not_loaded(error)}") from error
    return model, sorted(found["missing_keys"]), sorted(found["unexpected_keys"]), refused


def _refuse_pickles(source: str) -> None:
    """By the name that one calls for. Torch says of it how to run it."""
    if not os.path.isdir(source):
        return
    try:
        for file in weight_files(Path(source)):
            if file.suffix == ".bin":
                read_checkpoint_file(file)
    except UnreadableFile as error:
        raise CheckpointError(str(error)) from error


def _changes_the_encoder(key: str, prefix: str) -> bool:
    """Whether a key of a file is the encoder's, but for what no masked language model reads."""
    return (
        key.startswith(f"{prefix}.") and not key.startswith(f"{prefix}.pooler.") and not key.endswith("_ids")
    )


def _trained_without_sbo(source: str) -> bool:
    """By the options of the run whose folder, or checkpoint, it is."""
    place = Path(source).resolve()
    for folder in (place, *([place.parent.parent] if place.parent.name == "checkpoints" else [])):
        try:
            options = json.loads((folder / "run.json").read_text(encoding="utf-8"))["options"]
            return options["sbo"] is False
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return False
