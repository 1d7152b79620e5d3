# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the published code, tiny, and what its model computes, both written from the paper and its names."""

from __future__ import annotations

import argparse
import sys
import types
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

SPECIALS = ("[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    "Paris",
    "paris",
    "the",
    "The",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "New",
    "York",
    "in",
    "is",
    "big",
    ".",
)
PIECES = ("##s", "##ed", "##ing", "P", "p", "##aris")
VOCABULARY = (*SPECIALS, *WORDS, *PIECES)
V, H, LAYERS, INTERMEDIATE, POSITIONS, TYPES, POSITION_DIM = len(VOCABULARY), 64, 2, 48, 24, 2, 12
CLS, SEP, MASK = (VOCABULARY.index(token) for token in ("[CLS]", "[SEP]", "[MASK]"))


def published_state(
    slots: int | None = 20,
    nsp: bool = False,
    mlm: bool = True,
    dtype=torch.float32,
    gamma: bool = True,
    seed=0,
) -> OrderedDict[str, Tensor]:
    """slots: None for no SBO head."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator) * 0.1).to(dtype)

    state: OrderedDict[str, Tensor] = OrderedDict()

    def linear(name: str, outputs: int, inputs: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = draw(outputs, inputs), draw(outputs)

    def norm(name: str) -> None:
        scale, shift = ("gamma", "beta") if gamma else ("weight", "bias")
        state[f"{name}.{scale}"], state[f"{name}.{shift}"] = 1 + draw(H), draw(H)

    for name, rows in (("word", V), ("position", POSITIONS), ("token_type", TYPES)):
        state[f"bert.embeddings.{name}_embeddings.weight"] = draw(rows, H)
    words = state["bert.embeddings.word_embeddings.weight"]
    norm("bert.embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = f"bert.encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            linear(f"{at}.attention.self.{name}", H, H)
        linear(f"{at}.attention.output.dense", H, H)
        norm(f"{at}.attention.output.LayerNorm")
        linear(f"{at}.intermediate.dense", INTERMEDIATE, H)
        linear(f"{at}.output.dense", H, INTERMEDIATE)
        norm(f"{at}.output.LayerNorm")
    if nsp:
        linear("bert.pooler.dense", H, H)
    if mlm:
        state["cls.predictions.bias"] = draw(V)
        linear("cls.predictions.transform.dense", H, H)
        norm("cls.predictions.transform.LayerNorm")
        state["cls.predictions.decoder.weight"] = words
    if slots is not None:
        at = "cls.pair_target_predictions"
        state[f"{at}.bias"] = draw(V)
        state[f"{at}.position_embeddings.weight"] = draw(slots, POSITION_DIM)
        linear(f"{at}.mlp_layer_norm.linear1", H, 2 * H + POSITION_DIM)
        norm(f"{at}.mlp_layer_norm.layer_norm1")
        linear(f"{at}.mlp_layer_norm.linear2", H, H)
        norm(f"{at}.mlp_layer_norm.layer_norm2")
        state[f"{at}.decoder.weight"] = words
    if nsp:
        linear("cls.seq_relationship", 2, H)
    return state


def prefixed(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    return OrderedDict((f"decoder.{name}", x) for name, x in state.items())


@contextmanager
def fairseq_there():
    """Modules of the names of fairseq's, so that its objects can be pickled; the test's process has them no longer."""
    names = {
        "fairseq.models.pair_bert": ("BertConfig",),
        "fairseq.meters": ("AverageMeter", "TimeMeter", "StopwatchMeter"),
    }
    made = {"fairseq": types.ModuleType("fairseq"), "fairseq.models": types.ModuleType("fairseq.models")}
    for module, classes in names.items():
        made[module] = types.ModuleType(module)
        for name in classes:
            setattr(made[module], name, type(name, (), {"__module__": module}))
    sys.modules.update(made)
    try:
        yield made
    finally:
        for name in made:
            del sys.modules[name]


def run_checkpoint(state: dict[str, Tensor], **arguments) -> dict:
    """What fairseq's trainer saves, but its own objects: see `with_own_objects`."""
    given = {"arch": "cased_bert_pair", "hidden_size": H, "pair_target_layer": -1, "clamp_attention": True}
    given |= {"num_attention_heads": 4, "hidden_dropout_prob": 0.2, "endpoints": "external", "no_nsp": True}
    given |= {
        "vocab_size": 3,
        "pair_positional_embedding_size": 999,
    }  # the dictionary's; without effect there
    names = [f"decoder.{name}" for name in state]
    return {
        "args": argparse.Namespace(**(given | arguments)),
        "model": prefixed(state),
        "optimizer_history": [
            {"criterion_name": "SpanBertLoss", "lr_scheduler_state": {"best": 1.5}, "num_updates": 7}
        ],
        "last_optimizer_state": {
            "state": {0: {"step": 7, "exp_avg": torch.randn(5), "exp_avg_sq": torch.rand(5)}},
            "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.98), "params": names[:2]}],
        },
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 3}, "val_loss": 1.5},
    }


def save(content: object, path: Path, old: bool = True, **arguments) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not old, **arguments)
    return path


def with_own_objects(content: dict, path: Path, **config) -> Path:
    """As the trainer saves it: a configuration in the arguments, meters in the state."""
    with fairseq_there() as modules:
        made = modules["fairseq.models.pair_bert"].BertConfig()
        made.__dict__.update(
            {"vocab_size": V, "hidden_size": H, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
            | config
        )
        content["args"].config = made
        meters = modules["fairseq.meters"]
        found = OrderedDict(wps=meters.TimeMeter(), loss=meters.AverageMeter(), wall=meters.StopwatchMeter())
        found["loss"].__dict__.update(val=1.5, avg=1.5, sum=3.0, count=2)
        content["extra_state"]["train_meters"] = found
        return save(content, path)


# --- What the published model computes ---------------------------------------------------------------------------


def _norm(state: dict, name: str, x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = (x - mean).square().mean(-1, keepdim=True)
    return state[f"{name}.gamma"] * (x - mean) / (variance + 1e-12).sqrt() + state[f"{name}.beta"]


def _linear(state: dict, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def plain_encoder(state: dict[str, Tensor], ids: Tensor, heads: int) -> Tensor:
    """ids [B, L] without padding -> hidden states [B, L, H]."""
    at = "bert.embeddings"
    x = state[f"{at}.word_embeddings.weight"][ids] + state[f"{at}.token_type_embeddings.weight"][0]
    x = _norm(state, f"{at}.LayerNorm", x + state[f"{at}.position_embeddings.weight"][: ids.shape[1]])
    for layer in range(LAYERS):
        at = f"bert.encoder.layer.{layer}"
        query, key, value = (
            _linear(state, f"{at}.attention.self.{name}", x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )  # [B, heads, L, H / heads]
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        context = (weights @ value).transpose(1, 2).flatten(2)
        x = _norm(
            state,
            f"{at}.attention.output.LayerNorm",
            x + _linear(state, f"{at}.attention.output.dense", context),
        )
        inner = _gelu(_linear(state, f"{at}.intermediate.dense", x))
        x = _norm(state, f"{at}.output.LayerNorm", x + _linear(state, f"{at}.output.dense", inner))
    return x


def plain_mlm_logits(state: dict[str, Tensor], x: Tensor) -> Tensor:
    h = _gelu(_linear(state, "cls.predictions.transform.dense", x))
    h = _norm(state, "cls.predictions.transform.LayerNorm", h)
    return h @ state["cls.predictions.decoder.weight"].T + state["cls.predictions.bias"]


def plain_sbo_logits(state: dict[str, Tensor], x: Tensor, start: int, end: int) -> Tensor:
    """[B, end - start, V] of the span start ... end - 1 (paper, section 2.2)."""
    at = "cls.pair_target_predictions"
    rows = []
    for i in range(start, end):
        position = state[f"{at}.position_embeddings.weight"][i - start].expand(x.shape[0], -1)
        h = torch.cat([x[:, start - 1], x[:, end], position], -1)
        h = _norm(
            state,
            f"{at}.mlp_layer_norm.layer_norm1",
            _gelu(_linear(state, f"{at}.mlp_layer_norm.linear1", h)),
        )
        h = _norm(
            state,
            f"{at}.mlp_layer_norm.layer_norm2",
            _gelu(_linear(state, f"{at}.mlp_layer_norm.linear2", h)),
        )
        rows.append(h @ state[f"{at}.decoder.weight"].T + state[f"{at}.bias"])
    return torch.stack(rows, 1)


def plain_nsp_logits(state: dict[str, Tensor], x: Tensor) -> Tensor:
    return _linear(state, "cls.seq_relationship", torch.tanh(_linear(state, "bert.pooler.dense", x[:, 0])))


def doubled(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.double() for name, x in state.items()}


# --- The same of a model of ours ---------------------------------------------------------------------------------

SPAN = (3, 8)


def sample_ids(rows: int = 2, length: int = 12) -> Tensor:
    """[B, L]: text with the span masked."""
    ids = torch.randint(len(SPECIALS), V, (rows, length), generator=torch.Generator().manual_seed(1))
    ids[:, 0], ids[:, -1], ids[:, slice(*SPAN)] = CLS, SEP, MASK
    return ids


@torch.no_grad()
def logits_of(model, ids: Tensor) -> dict[str, Tensor]:
    """Of all heads that the model has, in float64; SBO logits of the span [B, K, V]."""
    model = model.double().eval()
    output = model(input_ids=ids)
    x = model.base_model(input_ids=ids).last_hidden_state
    masked = torch.arange(*SPAN).expand(len(ids), -1).contiguous()
    left, right = torch.full_like(masked, SPAN[0] - 1), torch.full_like(masked, SPAN[1])
    y = model.sbo(x, masked, left, right)
    found = {"MLM": output.logits, "SBO": F.linear(y, model.get_output_embeddings().weight, model.sbo.bias)}
    if model.config.span_pretraining["nsp"]:
        found["NSP"] = output.seq_relationship_logits
    return found


def plain_logits(state: dict[str, Tensor], ids: Tensor, heads: int) -> dict[str, Tensor]:
    """What the published model computes of its own tensors (LayerNorms as gamma and beta), in float64."""
    state = doubled(state)
    x = plain_encoder(state, ids, heads)
    found = {"MLM": plain_mlm_logits(state, x), "SBO": plain_sbo_logits(state, x, *SPAN)}
    if "cls.seq_relationship.weight" in state:
        found["NSP"] = plain_nsp_logits(state, x)
    return found


def assert_same_logits(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 1e-10) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].abs().max() > 0.1
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)
