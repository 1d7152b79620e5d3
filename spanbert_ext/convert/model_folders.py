# SPDX-License-Identifier: Apache-2.0
"""From a folder with a configuration and weights, as transformers and its forerunners write it, to a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, BertConfig

from spanbert_ext.convert.checkpoint_file import CheckpointError, read_checkpoint_file
from spanbert_ext.convert.fairseq import absent_heads, build_model, compare_sizes
from spanbert_ext.convert.published_state import PublishedState, check_state, listed
from spanbert_ext.files.messages import reason
from spanbert_ext.models.pretraining import SpanBertForPreTraining

CONFIG_FILE, OLD_CONFIG_FILE = "config.json", "bert_config.json"
# The first kind that is there. Beside what transformers loads may stand the same in another type, or of other programs.
_WEIGHTS = (
    *("model.safetensors", "model-*.safetensors", "pytorch_model.bin", "pytorch_model-*.bin"),
    *("*.safetensors", "pytorch_model*.bin"),
)
_NSP = "cls.seq_relationship.weight"


@dataclass(frozen=True)
class Loaded:
    """A model and what is to be said of where it comes from."""

    model: Any  # SpanBertForPreTraining
    what: str  # the form of the source
    parts: tuple[str, ...]  # of published_names.PARTS, those that were read and that the model has
    random: tuple[str, ...]  # heads that the source has not
    left_out: tuple[str, ...]  # keys of the source that the model has no place for
    dtypes: tuple[str, ...]


def loaded(model: Any, what: str, state: PublishedState) -> Loaded:
    """A model made of published tensors."""
    pooler = ("bert.pooler.dense",) if "pooler" in state.parts and not state.nsp else ()
    parts = tuple(part for part in state.parts if part != "pooler" or state.nsp)
    left_out = (*(f"{stem}.{kind}" for stem in pooler for kind in ("weight", "bias")), *state.left_out)
    return Loaded(model, what, parts, tuple(absent_heads(state)), left_out, state.dtypes)


def load_model_folder(folder: Path, progress: bool = False) -> Loaded:
    """Raises `CheckpointError`, naming the file or the key."""
    config = _config(folder)
    files = weight_files(folder)
    if config.model_type == "bert" and len(files) == 1 and getattr(config, "tie_word_embeddings", True):
        tensors = read_checkpoint_file(files[0])
        if not isinstance(tensors, dict):
            raise CheckpointError(
                f"{files[0]} holds a {type(tensors).__name__}, expected tensors by their names"
            )
        if not any(str(key).startswith("sbo.") for key in tensors):
            state = check_state(tensors, str(files[0]), others=True, progress=progress)
            compare_sizes(
                {name: getattr(config, name, None) for name in config.to_dict()},
                state,
                str(folder / CONFIG_FILE),
            )
            try:
                model = build_model(state, config)
            except (
                ValueError,
                LookupError,
                TypeError,
                AssertionError,
            ) as error:  # as the value that is no model's
                raise CheckpointError(
                    f"{folder / CONFIG_FILE} makes no model of these tensors: {reason(error)}"
                ) from error
            return loaded(model, f"BERT folder, {files[0].name}", state)
    return _load_native(folder, files)


def _config(folder: Path) -> Any:
    name = CONFIG_FILE if (folder / CONFIG_FILE).is_file() else OLD_CONFIG_FILE
    try:
        if name == OLD_CONFIG_FILE:
            return BertConfig.from_json_file(str(folder / name))
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # no JSON, an unknown model type, a value that is refused
        raise CheckpointError(f"{folder / name} cannot be read: {reason(error)}") from error


def weight_files(folder: Path) -> list[Path]:
    """One, or the parts of one. Raises `CheckpointError` where there is none."""
    for pattern in _WEIGHTS:
        files = sorted(path for path in folder.glob(pattern) if path.is_file())
        if files:
            return files
    raise CheckpointError(f"{folder} has no weights: neither {' nor '.join(_WEIGHTS[-2:])}")


def _load_native(folder: Path, files: list[Path]) -> Loaded:
    """By transformers: any family, weights in several files, a folder of ours."""
    dtypes = _dtypes(files)
    try:
        model, found = SpanBertForPreTraining.from_pretrained(
            str(folder),
            nsp=True if _NSP in dtypes else None,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # or it is refused without the key
        )
    except Exception as error:  # an option of ours that is refused, or one of many types
        raise CheckpointError(f"{folder} cannot be loaded: {why_not_loaded(error)}") from error
    check_shapes(found, str(folder))
    random = _random_heads(model, set(found["missing_keys"]), folder)
    for name, tensor in model.named_parameters():
        if not tensor.detach().isfinite().all():
            raise CheckpointError(f"{folder}: {name} holds NaN or an infinity")
    has_nsp = model.config.span_pretraining["nsp"]
    parts = ("MLM head", "SBO head", *(("pooler", "NSP head") if has_nsp else ()))
    return Loaded(
        model,
        f"{model.config.model_type} folder, {files[0].name}"
        + (f" and {len(files) - 1} more" if len(files) > 1 else ""),
        tuple(part for part in parts if part not in random),
        random,
        tuple(sorted(found["unexpected_keys"])),
        tuple(dict.fromkeys(dtypes.values())),
    )


def why_not_loaded(error: Exception) -> str:
    """In one line, why `from_pretrained` with `ignore_mismatched_sizes` failed: it compares tied tensors, also those
    that it has left out for their shape."""
    if isinstance(error, NotImplementedError) and "aten::equal" in str(error):
        return f"the embeddings have another shape than by {CONFIG_FILE} (vocab_size, hidden_size)"
    return reason(error)


def check_shapes(found: dict[str, Any], where: str) -> None:
    """Raises `CheckpointError`, naming a key that `from_pretrained` left out for its shape.

    Args:
        found: its `output_loading_info`.
    """
    for key, here, expected in sorted(found["mismatched_keys"]):
        raise CheckpointError(
            f"{where}: {key} has shape {list(here)}, expected {list(expected)} by {CONFIG_FILE}"
        )


def _dtypes(files: list[Path]) -> dict[str, str]:
    """Of every tensor. A file that is damaged, or that calls for anything but tensors, is refused here."""
    dtypes = {}
    for file in files:
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, "pt") as tensors:
                    dtypes |= {key: str(tensors.get_slice(key).get_dtype()) for key in tensors.keys()}
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{file} cannot be read: it is cut off or damaged ({reason(error)})"
                ) from error
        else:
            tensors = read_checkpoint_file(file)
            for key, tensor in tensors.items() if isinstance(tensors, dict) else ():
                dtypes[key] = str(getattr(tensor, "dtype", type(tensor).__name__)).removeprefix("torch.")
    return {
        key: {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(x, x) for key, x in dtypes.items()
    }


def _random_heads(model: Any, missing: set[str], folder: Path) -> tuple[str, ...]:
    """The heads of which the folder has nothing. Raises `CheckpointError` for a key that is missing otherwise."""
    names = {name for name, _ in model.named_parameters()}
    encoder = {name for name in names if name.startswith(f"{model.base_model_prefix}.")}
    sbo = {name for name in names if name.startswith("sbo.")}
    heads = {"MLM head": names - encoder - sbo, "SBO head": sbo}
    random = tuple(part for part, own in heads.items() if own and own <= missing)
    lost = missing & names - set().union(*(heads[part] for part in random))
    if lost:
        raise CheckpointError(f"{folder}: {listed(sorted(lost))} {'is' if len(lost) == 1 else 'are'} missing")
    return random
