# SPDX-License-Identifier: Apache-2.0
"""SpanBERT."""

from __future__ import annotations

from spanbert_ext.pretrain.settings.recipes import joshi
from spanbert_ext.pretrain.settings.recipes.recipe import Recipe

RECIPE = Recipe(
    name="spanbert",
    title="SpanBERT: one segment, geometric spans with fresh masks, MLM + SBO",
    options={**joshi.SCHEDULE, **joshi.BLOCKS, "masking": "spans", "sbo": True},
    paper=(
        *joshi.PAPER,
        "spans of 1 to 10 whole words, mean 3.8, until 15 % are masked; replacement is drawn once for a span",
        "one segment, MLM + SBO with weight 1",
    ),
    code=(
        *joshi.BLOCKS_CODE,
        "lengths beyond 10 are drawn again; spans begin at a uniform token's word; touching spans are one; only"
        " spans with text on both sides have an SBO",
        joshi.SBO_CODE,
    ),
    ours=joshi.BLOCKS_OURS,
)
