# SPDX-License-Identifier: Apache-2.0
"""From a model to the names and the file of the published SpanBERT code."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spanbert_ext.convert.checkpoint_file import CheckpointError
from spanbert_ext.convert.published_names import COPIES, PREFIX, PUBLISHED_COPIES, entries

MODEL_FILE, DICTIONARY_FILE = "model.pt", "dict.txt"
# That code knows one form of each.
_ONLY = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}


def parts_of(model: Any) -> tuple[str, ...]:
    return ("MLM head", "SBO head", *(("pooler", "NSP head") if model.config.span_pretraining["nsp"] else ()))


def published_tensors(
    model: Any, parts: tuple[str, ...], gamma_beta: bool, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """A model's tensors under published names, without a prefix; a decoder shares its storage with the embeddings.

    Args:
        parts: of published_names.PARTS, the heads that are wanted.
        gamma_beta: whether LayerNorms have the published names, or weight and bias.

    Raises:
        CheckpointError: the model is none that the published code can have (another architecture, an untied decoder),
            or a value does not fit into dtype.
    """
    for name, only in _ONLY.items():
        value = getattr(model.config, name, only)
        if value != only:
            raise CheckpointError(
                f"{type(model).__name__}: config.{name} is {value!r}; the published code has {only!r} alone"
            )
    state = model.state_dict()
    for name, of in COPIES.items():
        if name in state and not torch.equal(state[name], state[of]):
            raise CheckpointError(
                f"{type(model).__name__}: {name} differs from {of}: the decoder is not tied, and in the published code"
                " it is"
            )
    tensors: dict[str, Tensor] = {}
    for entry in entries(model.config.num_hidden_layers, parts):
        value = state[entry.ours].detach().cpu()
        tensor = value.to(dtype).contiguous()
        if not tensor.isfinite().all():
            fits = "holds NaN or an infinity" if not value.isfinite().all() else f"does not fit into {dtype}"
            raise CheckpointError(f"{type(model).__name__}: {entry.ours} {fits}")
        tensors[entry.gamma_beta if gamma_beta else entry.published] = tensor
    heads = {"cls.predictions": "MLM head", "cls.pair_target_predictions": "SBO head"}
    for name in PUBLISHED_COPIES:
        if heads[name.removesuffix(".decoder.weight")] in parts:
            tensors[name] = tensors[COPIES[name]]
    return tensors


def write_fairseq(
    model: Any, folder: Path, with_arguments: bool = False, dtype: torch.dtype = torch.float32
) -> None:
    """Writes `model.pt` as the published one: a dictionary of tensors with `decoder.` before the keys.

    Args:
        with_arguments: as a run of that code writes it, from which its `--restore-file` goes on, with a new optimizer.

    Raises:
        CheckpointError: as `published_tensors`.
    """
    tensors = published_tensors(model, parts_of(model), gamma_beta=True, dtype=dtype)
    content: dict[str, Any] = {f"{PREFIX}{name}": tensor for name, tensor in tensors.items()}
    if with_arguments:
        history = {
            "criterion_name": "SpanBertLoss",
            "optimizer_name": "FairseqAdam",
            "lr_scheduler_state": {"best": None},
            "num_updates": 0,
        }
        content = {
            "args": _arguments(model),
            "model": content,
            "optimizer_history": [history],
            "last_optimizer_state": None,
            "extra_state": {
                "train_iterator": {"epoch": 0, "iterations_in_epoch": 0},
                "val_loss": None,
            },
        }
    save_old_format(content, folder / MODEL_FILE)


def _arguments(model: Any) -> argparse.Namespace:
    config, options = model.config, model.config.span_pretraining
    return argparse.Namespace(
        arch="cased_bert_pair",
        task="span_bert",
        criterion="span_bert_loss",
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        hidden_act=config.hidden_act,
        hidden_dropout_prob=config.hidden_dropout_prob,
        attention_probs_dropout_prob=config.attention_probs_dropout_prob,
        max_position_embeddings=config.max_position_embeddings,
        clamp_attention=False,
        max_pair_targets=options["position_slots"],
        pair_positional_embedding_size=options["position_dim"],
        pair_target_layer=-1,
        endpoints="external",
        no_nsp=not options["nsp"],
        remove_head=False,
        remove_pooled=False,
    )


def save_old_format(content: Any, path: Path) -> None:
    """As torch before 1.6 wrote files, and as every torch reads them."""
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_dictionary(tokens: list[str], folder: Path) -> None:
    """`dict.txt`, a token and a number a line: that code wants the numbers to descend, and uses them for nothing."""
    lines = [f"{token} {len(tokens) - index}\n" for index, token in enumerate(tokens)]
    (folder / DICTIONARY_FILE).write_text("".join(lines), encoding="utf-8")
