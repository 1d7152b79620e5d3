# SPDX-License-Identifier: Apache-2.0
"""The paper's BERT on single sequences."""

from __future__ import annotations

from spanbert_ext.pretrain.settings.recipes import joshi
from spanbert_ext.pretrain.settings.recipes.recipe import Recipe

RECIPE = Recipe(
    name="our-bert-1seq",
    title="the paper's BERT on single sequences: one segment, no NSP, single tokens with fresh masks",
    options={**joshi.SCHEDULE, **joshi.BLOCKS, "masking": "tokens", "sbo": False},
    paper=(*joshi.PAPER, "one segment, MLM alone; 15 % of the tokens, each replaced by itself"),
    code=joshi.BLOCKS_CODE,
    ours=joshi.BLOCKS_OURS,
)
