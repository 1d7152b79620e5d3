# SPDX-License-Identifier: Apache-2.0
"""Masking ablation (section 6.1): noun phrases."""

from __future__ import annotations

from spanbert_ext.pretrain.settings.recipes import joshi
from spanbert_ext.pretrain.settings.recipes.recipe import Recipe

RECIPE = Recipe(
    name="masking-noun-phrases",
    title="masking ablation, noun phrases: half of the draws are noun phrases, half whole words",
    options={**joshi.SCHEDULE, **joshi.PAIRS, "masking": "noun-phrases", "sbo": False},
    paper=(
        *joshi.PAPER,
        joshi.ABLATION,
        "two segments, MLM + NSP; a draw is with probability 0.5 a noun phrase, else a random whole word",
    ),
    code=joshi.PAIRS_CODE,
    ours=(*joshi.PAIRS_OURS, "noun phrases are textblob's (the paper: those of a constituency parser)"),
)
