# SPDX-License-Identifier: Apache-2.0
"""Objective ablation (section 6.2): one segment and SBO."""

from __future__ import annotations

from spanbert_ext.pretrain.settings.recipes import joshi
from spanbert_ext.pretrain.settings.recipes.recipe import Recipe

RECIPE = Recipe(
    name="objective-1seq-sbo",
    title="objective ablation, spans on one segment: MLM + SBO, the same as spanbert",
    options={**joshi.SCHEDULE, **joshi.BLOCKS, "masking": "spans", "sbo": True},
    paper=(*joshi.PAPER, joshi.ABLATION, "one segment, MLM + SBO; spans of 1 to 10 whole words, mean 3.8"),
    code=(*joshi.BLOCKS_CODE, joshi.SBO_CODE),
    ours=joshi.BLOCKS_OURS,
)
