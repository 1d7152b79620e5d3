# SPDX-License-Identifier: Apache-2.0
"""Spans on two segments with both objectives, which the published code can train."""

from __future__ import annotations

from spanbert_ext.pretrain.settings.recipes import joshi
from spanbert_ext.pretrain.settings.recipes.recipe import Recipe

RECIPE = Recipe(
    name="objective-pairs-sbo",
    title="spans on two segments with all three objectives: MLM + NSP + SBO",
    options={**joshi.SCHEDULE, **joshi.PAIRS, "masking": "spans", "sbo": True},
    paper=(*joshi.PAPER, "spans of 1 to 10 whole words, mean 3.8; the paper has no such system"),
    code=(
        *joshi.PAIRS_CODE,
        "loss mlm_nsp_sbo_loss: the three means are added; no span reaches over [SEP]",
        joshi.SBO_CODE,
    ),
    ours=joshi.PAIRS_OURS,
)
