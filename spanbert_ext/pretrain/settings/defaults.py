# SPDX-License-Identifier: Apache-2.0
"""Values of options that the user does not give: from the demo's schedule, a recipe, or the way to train on one's own
text; and those that no run changes unless asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanbert_ext.pretrain.settings.recipes import RECIPES
from spanbert_ext.pretrain.settings.sizes import MODELS, RANDOM_START_RATES

# Minutes on two CPU cores: many small steps at a high rate, no dropout, because nothing this small overfits
# in them. For the same reason one layer: in equal time it learns more than two (held-out loss of both heads).
DEMO: dict[str, Any] = {
    "block_size": 128,
    "short_block_size": 32,  # a quarter, as 128 is of 512
    "batch_size": 16,
    "gradient_accumulation": 1,
    "max_steps": 4_000,
    "learning_rate": 3e-3,
    "warmup_steps": 100,
    "adam_beta2": 0.98,
    "dropout": 0.0,
    "vocab_size": 4_000,
    "held_out": 0.1,
    "eval_steps": 400,
    "logging_steps": 100,
}
# A model on one's own text: some passes at a low rate.
OWN_TEXT: dict[str, Any] = {
    "block_size": 512,
    "batch_size": 16,
    "gradient_accumulation": 2,
    "epochs": 3.0,
    "learning_rate": 5e-5,
    "warmup_ratio": 0.06,
    "weight_decay": 0.01,
    "adam_beta2": 0.999,
    "dropout": 0.1,
    "vocab_size": 28_996,
    "unused_ids": 100,
    "held_out": 0.05,
    "eval_steps": 10_000,
    "logging_steps": 100,
}
# What none of these says.
PLAIN: dict[str, Any] = {
    "rows": "blocks",
    "short_rows": 0.0,
    "short_phase": 0.0,
    "short_block_size": 128,
    "unused_ids": 0,
    "nsp": False,
    "sbo": True,
    "masking": "spans",
    "candidate_share": 0.5,
    "dupe_factor": 0,
    "ratio": 0.15,
    "weight_decay": 0.1,
    "decay_all": False,
    "adam_epsilon": 1e-8,
    "adam_bias_correction": True,
    "max_grad_norm": 1.0,
}
# Ways to say one thing: the layer that says it first says it alone, and the user may give one of them.
ALTERNATIVES = (
    ("max_steps", "epochs", "max_tokens"),
    ("warmup_steps", "warmup_ratio"),
    ("batch_size", "tokens_per_batch"),
)


def layers(model: str, recipe: str | None) -> list[Mapping[str, Any]]:
    """Where values come from, the first that has one before the others."""
    found: list[Mapping[str, Any]] = [DEMO] if model == "demo" else []
    if recipe is not None:
        found.append(RECIPES[recipe].options)
    elif model in MODELS and model != "demo":
        found += [{"learning_rate": RANDOM_START_RATES[model]}, OWN_TEXT]
    elif model != "demo":
        found.append(OWN_TEXT)
    return [*found, PLAIN]


def fill(given: Mapping[str, Any], found: list[Mapping[str, Any]]) -> dict[str, Any]:
    """`given` and, for what it leaves out, the values of the layers `found`."""
    values = dict(given)
    for layer in found:
        said = {name for group in ALTERNATIVES if not values.keys().isdisjoint(group) for name in group}
        values |= {name: value for name, value in layer.items() if name not in values and name not in said}
    return values
