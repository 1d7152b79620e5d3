# SPDX-License-Identifier: Apache-2.0
"""Masking ablation (section 6.1): named entities."""

from __future__ import annotations

from spanbert_ext.pretrain.settings.recipes import joshi
from spanbert_ext.pretrain.settings.recipes.recipe import Recipe

RECIPE = Recipe(
    name="masking-entities",
    title="masking ablation, named entities: half of the draws are entities, half whole words",
    options={**joshi.SCHEDULE, **joshi.PAIRS, "masking": "entities", "sbo": False},
    paper=(
        *joshi.PAPER,
        joshi.ABLATION,
        "two segments, MLM + NSP; a draw is with probability 0.5 a named entity, else a random whole word",
    ),
    code=joshi.PAIRS_CODE,
    ours=(
        *joshi.PAIRS_OURS,
        "entities are runs of capitalised words that do not begin a sentence (the paper: a recogniser's)",
    ),
)
