# SPDX-License-Identifier: Apache-2.0
"""Masking ablation (section 6.1): whole words."""

from __future__ import annotations

from spanbert_ext.pretrain.settings.recipes import joshi
from spanbert_ext.pretrain.settings.recipes.recipe import Recipe

RECIPE = Recipe(
    name="masking-words",
    title="masking ablation, whole words: all tokens of a word are masked",
    options={**joshi.SCHEDULE, **joshi.PAIRS, "masking": "words", "sbo": False},
    paper=(
        *joshi.PAPER,
        joshi.ABLATION,
        "two segments, MLM + NSP; random words, all of whose tokens are masked",
    ),
    code=joshi.PAIRS_CODE,
    ours=(*joshi.PAIRS_OURS, "replacement is drawn for each token, as in Google's whole-word masking"),
)
