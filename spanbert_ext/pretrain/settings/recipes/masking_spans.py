# SPDX-License-Identifier: Apache-2.0
"""Masking ablation (section 6.1): geometric spans."""

from __future__ import annotations

from spanbert_ext.pretrain.settings.recipes import joshi
from spanbert_ext.pretrain.settings.recipes.recipe import Recipe

RECIPE = Recipe(
    name="masking-spans",
    title="masking ablation, geometric spans: the same as objective-pairs",
    options={**joshi.SCHEDULE, **joshi.PAIRS, "masking": "spans", "sbo": False},
    paper=(*joshi.PAPER, joshi.ABLATION, "two segments, MLM + NSP; spans of 1 to 10 whole words, mean 3.8"),
    code=joshi.PAIRS_CODE,
    ours=joshi.PAIRS_OURS,
)
