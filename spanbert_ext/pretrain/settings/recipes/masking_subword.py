# SPDX-License-Identifier: Apache-2.0
"""Masking ablation (section 6.1): single tokens."""

from __future__ import annotations

from spanbert_ext.pretrain.settings.recipes import joshi
from spanbert_ext.pretrain.settings.recipes.recipe import Recipe

RECIPE = Recipe(
    name="masking-subword",
    title="masking ablation, single tokens: the same as our-bert",
    options={**joshi.SCHEDULE, **joshi.PAIRS, "masking": "tokens", "sbo": False},
    paper=(
        *joshi.PAPER,
        joshi.ABLATION,
        "two segments, MLM + NSP; each token is drawn and replaced by itself",
    ),
    code=joshi.PAIRS_CODE,
    ours=joshi.PAIRS_OURS,
)
