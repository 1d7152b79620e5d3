# SPDX-License-Identifier: Apache-2.0
"""The names under which SpanBERT's own code keeps a model, those of ours, and every tensor's shape: the one table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

PREFIX = "decoder."  # fairseq's model holds the encoder as its decoder
WORDS = "bert.embeddings.word_embeddings.weight"
OUTPUT_BIAS = "cls.predictions.bias"
SBO = "cls.pair_target_predictions"
SLOTS = f"{SBO}.position_embeddings.weight"
FEED_FORWARD = "bert.encoder.layer.0.intermediate.dense.weight"
LAYER = re.compile(r"bert\.encoder\.layer\.(\d+)\.")

# Stored again under a second name. By it, what it is a copy of.
COPIES = {
    "cls.predictions.decoder.weight": WORDS,
    "cls.predictions.decoder.bias": OUTPUT_BIAS,
    f"{SBO}.decoder.weight": WORDS,
}
PUBLISHED_COPIES = tuple(name for name in COPIES if name.endswith("weight"))  # that the published code stores
POSITIONS = "bert.embeddings.position_ids"  # the numbers from 0 on, which old versions of transformers stored

# The dimension that says what a size is: of which tensor, and which one.
SIZES = {
    "V": (WORDS, 0),
    "H": (WORDS, 1),
    "L": ("bert.embeddings.position_embeddings.weight", 0),
    "T": ("bert.embeddings.token_type_embeddings.weight", 0),
    "I": (FEED_FORWARD, 0),
    "S": (SLOTS, 0),
    "P": (SLOTS, 1),
}


class Entry(NamedTuple):
    """A tensor: its published name, with a LayerNorm's scale and shift as weight and bias; ours; its shape."""

    published: str
    ours: str
    shape: tuple[str, ...]  # keys of SIZES, "2" and "2H+P"
    in_norm: bool = False

    @property
    def gamma_beta(self) -> str:
        """The name that the published code gives it."""
        if not self.in_norm:
            return self.published
        stem, _, kind = self.published.rpartition(".")
        return f"{stem}.{'gamma' if kind == 'weight' else 'beta'}"


def encoder(layers: int) -> Iterator[Entry]:
    at = "bert.embeddings"
    for name, rows in (("word", "V"), ("position", "L"), ("token_type", "T")):
        yield from _same(f"{at}.{name}_embeddings.weight", rows, "H")
    yield from _norm(f"{at}.LayerNorm")
    for number in range(layers):
        at = f"bert.encoder.layer.{number}"
        for name in ("query", "key", "value"):
            yield from _linear(f"{at}.attention.self.{name}", "H", "H")
        yield from _linear(f"{at}.attention.output.dense", "H", "H")
        yield from _norm(f"{at}.attention.output.LayerNorm")
        yield from _linear(f"{at}.intermediate.dense", "I", "H")
        yield from _linear(f"{at}.output.dense", "H", "I")
        yield from _norm(f"{at}.output.LayerNorm")


def mlm_head() -> Iterator[Entry]:
    yield from _same(OUTPUT_BIAS, "V")
    yield from _linear("cls.predictions.transform.dense", "H", "H")
    yield from _norm("cls.predictions.transform.LayerNorm")


def sbo_head() -> Iterator[Entry]:
    mlp = f"{SBO}.mlp_layer_norm"
    yield Entry(SLOTS, "sbo.position_embeddings.weight", ("S", "P"))
    yield from _linear(f"{mlp}.linear1", "H", "2H+P", "sbo.dense1")
    yield from _norm(f"{mlp}.layer_norm1", "sbo.norm1")
    yield from _linear(f"{mlp}.linear2", "H", "H", "sbo.dense2")
    yield from _norm(f"{mlp}.layer_norm2", "sbo.norm2")
    yield Entry(f"{SBO}.bias", "sbo.bias", ("V",))


def pooler() -> Iterator[Entry]:
    yield from _linear("bert.pooler.dense", "H", "H")


def nsp_head() -> Iterator[Entry]:
    yield from _linear("cls.seq_relationship", "2", "H")


# By what people call it, a part that a checkpoint has or has not. The encoder is always there.
PARTS = {"MLM head": mlm_head, "SBO head": sbo_head, "pooler": pooler, "NSP head": nsp_head}


def entries(layers: int, parts: tuple[str, ...]) -> list[Entry]:
    """The table's rows for an encoder of so many layers and some of `PARTS`."""
    return [*encoder(layers), *(entry for part in parts for entry in PARTS[part]())]


def shape_of(entry: Entry, sizes: dict[str, int]) -> list[int]:
    known = sizes | {"2": 2}
    return [2 * known["H"] + known["P"] if symbol == "2H+P" else known[symbol] for symbol in entry.shape]


def present_name(name: str) -> str:
    """A LayerNorm's gamma and beta as weight and bias, another name as it is."""
    stem, _, kind = name.rpartition(".")
    present = {"gamma": "weight", "beta": "bias"}
    return f"{stem}.{present[kind]}" if kind in present else name


def _same(name: str, *shape: str) -> Iterator[Entry]:
    yield Entry(name, name, shape)


def _linear(name: str, outputs: str, inputs: str, ours: str | None = None) -> Iterator[Entry]:
    yield Entry(f"{name}.weight", f"{ours or name}.weight", (outputs, inputs))
    yield Entry(f"{name}.bias", f"{ours or name}.bias", (outputs,))


def _norm(name: str, ours: str | None = None) -> Iterator[Entry]:
    for kind in ("weight", "bias"):
        yield Entry(f"{name}.{kind}", f"{ours or name}.{kind}", ("H",), in_norm=True)
