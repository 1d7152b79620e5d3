# SPDX-License-Identifier: Apache-2.0
"""The paper's own BERT, in which only data and optimisation differ from Google's."""

from __future__ import annotations

from spanbert_ext.pretrain.settings.recipes import joshi
from spanbert_ext.pretrain.settings.recipes.recipe import Recipe

RECIPE = Recipe(
    name="our-bert",
    title="the paper's own BERT: pairs and NSP, single tokens with fresh masks, always 512 tokens",
    options={**joshi.SCHEDULE, **joshi.PAIRS, "masking": "tokens", "sbo": False},
    paper=(*joshi.PAPER, "two segments, MLM + NSP; 15 % of the tokens, each replaced by itself"),
    code=joshi.PAIRS_CODE,
    ours=joshi.PAIRS_OURS,
)
