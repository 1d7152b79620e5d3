# SPDX-License-Identifier: Apache-2.0
"""From the checkpoint of the published SpanBERT code to a model."""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import BertConfig

from spanbert_ext.convert.checkpoint_file import Attributes, CheckpointError, read_checkpoint_file
from spanbert_ext.convert.published_names import COPIES
from spanbert_ext.convert.published_state import PublishedState, check_state
from spanbert_ext.files.paths import given_path
from spanbert_ext.models.pretraining import SpanBertForPreTraining

_FROM_THE_FILE = ("nsp", "position_slots", "position_dim")  # options of the model class
_HEAD_WIDTH = 64  # of an attention head, in every published BERT
# Sizes that a configuration repeats; those that the arguments of a run do, beside the configuration in them. (Not
# pair_positional_embedding_size, which that code takes and ignores, nor vocab_size: of the data's dictionary there.)
_SIZES = {
    "vocab_size": "V",
    "hidden_size": "H",
    "num_hidden_layers": "layers",
    "intermediate_size": "I",
    "max_position_embeddings": "L",
    "type_vocab_size": "T",
    "max_pair_targets": "S",
}
_ARGUMENTS = _SIZES.keys() - {"vocab_size", "type_vocab_size"}
# What makes of the same tensors another model than ours is.
_ONLY = {"hidden_act": "gelu", "pair_target_layer": -1, "endpoints": "external"}
_OF_SBO = ("pair_target_layer", "endpoints")
# Heads that every model of ours has, and how their keys begin.
_STEMS = {"MLM head": "cls.predictions.", "SBO head": "sbo."}


@dataclass(frozen=True)
class FairseqCheckpoint:
    """What stands in a file: all that a model is made of."""

    state: PublishedState
    config: BertConfig
    has_arguments: bool


def load_fairseq_checkpoint(
    path: str | os.PathLike[str], *, num_attention_heads: int | None = None, **options: Any
) -> Any:
    """The published SpanBERT with its heads, or a checkpoint of the code that it was trained with, as a model of ours.

    The file is a dictionary of tensors (the published `model.pt`), or one with the arguments of a run as `args` and the
    tensors under `model`; with `decoder.` before its keys or without; of any floating type, which becomes float32. All
    sizes are read off the tensors: `position_slots` is 15 in a model trained with the paper's command, 20 by that
    code's default. With `cls.seq_relationship` in it the model has an NSP head (`nsp=True`). A file never runs code: of
    classes `argparse.Namespace` is known, and those that fairseq keeps beside it stand there as their attributes.

    A dictionary of tensors alone does not say which layer the SBO reads: it is taken to be the last one, as in all that
    was published.

    Args:
        num_attention_heads: for a file that does not say it; None: hidden size / 64 there.
        options: of `SpanBertForPreTraining`, but for those that the file decides.

    Returns:
        SpanBertForPreTraining, float32, in training mode as every new module. A head that the file does not have is
        initialised at random, with a warning.

    Raises:
        CheckpointError (a ValueError): the file is no such checkpoint; the message names the key that is missing,
            unknown, of another shape than the others say, NaN, or a copy that differs (an untied decoder), the argument
            that makes it another model (`pair_target_layer` other than -1), or the class that it calls for.
        ValueError: an option that the file decides, or one out of range.
    """
    fixed = [name for name in _FROM_THE_FILE if name in options]
    if fixed:
        raise ValueError(f"{fixed[0]} is read off the checkpoint: leave it out")
    path = given_path(path)
    checkpoint = read_fairseq(path, num_attention_heads)
    for part in absent_heads(checkpoint.state):
        warnings.warn(f"{path} has no {part}: it is initialised at random", stacklevel=2)
    return build_model(checkpoint.state, checkpoint.config, **options)


def read_fairseq(
    path: Path, num_attention_heads: int | None = None, progress: bool = False
) -> FairseqCheckpoint:
    """Raises `CheckpointError`."""
    content = read_checkpoint_file(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, expected a dictionary of tensors")
    nested = isinstance(content.get("model"), Mapping)
    state = check_state(content["model"] if nested else content, str(path), progress=progress)
    arguments = _Arguments(content.get("args") if nested else None, str(path))
    arguments.check(state)
    return FairseqCheckpoint(
        state, _config(state, arguments, num_attention_heads, str(path)), arguments.given
    )


def build_model(state: PublishedState, config: BertConfig, **options: Any) -> Any:
    """A model of a configuration with the tensors of a checkpoint; heads that it does not have are random."""
    if "SBO head" in state.parts:
        options |= {"position_slots": state.sizes["S"], "position_dim": state.sizes["P"]}
    model = SpanBertForPreTraining(config, nsp=state.nsp, **options)
    own = model.state_dict()
    tensors = {name: tensor for name, tensor in state.tensors.items() if name in own}
    model.load_state_dict(tensors, strict=False)
    random = tuple(_STEMS[part] for part in absent_heads(state))
    missing = [name for name in own.keys() - tensors.keys() - COPIES.keys() if not name.startswith(random)]
    if missing:
        raise RuntimeError(f"the table of published names lacks {sorted(missing)}")
    return model


def absent_heads(state: PublishedState) -> list[str]:
    """Heads that a model of ours always has and this checkpoint has not."""
    return [part for part in _STEMS if part not in state.parts]


class _Arguments:
    """The arguments of a run of the published code, and the configuration in them."""

    def __init__(self, arguments: Any, where: str) -> None:
        self._where = where
        self.given = arguments is not None
        self._own = self._attributes(arguments, "args")
        self._config = self._attributes(self._own.get("config"), "args.config")

    def _attributes(self, x: Any, name: str) -> dict[str, Any]:
        if x is None:
            return {}
        if isinstance(x, Mapping):
            return dict(x)
        if isinstance(x, (argparse.Namespace, Attributes)):
            return vars(x)
        raise CheckpointError(
            f"{self._where}: {name} is a {type(x).__name__}, expected an argparse.Namespace"
        )

    def values(self, name: str) -> dict[str, Any]:
        """By where it stands, what is said of `name`."""
        places = {f"args.{name}": self._own.get(name), f"args.config.{name}": self._config.get(name)}
        return {place: value for place, value in places.items() if value is not None}

    def number(self, name: str, default: float) -> float:
        """Of a probability."""
        for place, value in self.values(name).items():
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
                raise CheckpointError(f"{self._where}: {place} is {value!r}, expected 0 <= {name} < 1")
            default = value
        return default

    def check(self, state: PublishedState) -> None:
        """Raises `CheckpointError` where the arguments are those of another model than the tensors, or than ours."""
        for name, only in _ONLY.items():
            if name in _OF_SBO and "SBO head" not in state.parts:
                continue
            for place, value in self.values(name).items():
                if _differs(value, only):
                    raise CheckpointError(
                        f"{self._where}: {place} is {value!r}; a model of ours has {only!r} alone, and would compute"
                        " something else from the same tensors"
                    )
        own = {name: value for name, value in self._own.items() if name in _ARGUMENTS}
        compare_sizes(own, state, f"{self._where}: args")
        compare_sizes(self._config, state, f"{self._where}: args.config")


def _differs(value: Any, expected: int | str) -> bool:
    """`value`: anything; a tensor is compared number by number, which is no answer."""
    return isinstance(value, Tensor) or value != expected


def compare_sizes(said: Mapping[str, Any], state: PublishedState, where: str) -> None:
    """Raises `CheckpointError` where a configuration's sizes are not those of the tensors."""
    for name, size in _SIZES.items():
        value = said.get(name)
        if value is not None and size in state.sizes and _differs(value, state.sizes[size]):
            raise CheckpointError(f"{where}: {name} is {value!r}, but the tensors have {state.sizes[size]}")


def _config(
    state: PublishedState, arguments: _Arguments, num_attention_heads: int | None, where: str
) -> BertConfig:
    sizes = state.sizes
    return BertConfig(
        vocab_size=sizes["V"],
        hidden_size=sizes["H"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=_attention_heads(sizes["H"], arguments, num_attention_heads, where),
        intermediate_size=sizes["I"],
        max_position_embeddings=sizes["L"],
        type_vocab_size=sizes["T"],
        hidden_dropout_prob=arguments.number("hidden_dropout_prob", 0.1),
        attention_probs_dropout_prob=arguments.number("attention_probs_dropout_prob", 0.1),
        hidden_act="gelu",
        layer_norm_eps=1e-12,
    )


def _attention_heads(width: int, arguments: _Arguments, given: int | None, where: str) -> int:
    said = arguments.values("num_attention_heads")
    if given is not None:
        said = {"num_attention_heads": given} | said
    if not said:
        if width % _HEAD_WIDTH:
            raise CheckpointError(
                f"{where}: no tensor says how many attention heads there are, and the hidden size {width} is no"
                f" multiple of {_HEAD_WIDTH}: give num_attention_heads (--attention-heads)"
            )
        return width // _HEAD_WIDTH
    for place, value in said.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1 or width % value:
            raise CheckpointError(
                f"{where}: {place} is {value!r}, expected a divisor of the hidden size {width}"
            )
    if len({*said.values()}) > 1:
        raise CheckpointError(f"{where}: {' and '.join(f'{name} is {x}' for name, x in said.items())}")
    return next(iter(said.values()))
