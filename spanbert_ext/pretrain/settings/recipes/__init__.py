# SPDX-License-Identifier: Apache-2.0
"""The paper's four systems and its ablations, a file each, of one form: what differs between them and why.

A recipe is values of options; the code that trains them is one. `RECIPES` lists them in the paper's order."""

from __future__ import annotations

from spanbert_ext.pretrain.settings.recipes import (
    bert,
    masking_entities,
    masking_noun_phrases,
    masking_spans,
    masking_subword,
    masking_words,
    objective_1seq,
    objective_1seq_sbo,
    objective_pairs,
    objective_pairs_sbo,
    our_bert,
    our_bert_1seq,
    spanbert,
)
from spanbert_ext.pretrain.settings.recipes.recipe import Recipe

_FILES = (
    bert,
    our_bert,
    our_bert_1seq,
    spanbert,
    masking_subword,
    masking_words,
    masking_entities,
    masking_noun_phrases,
    masking_spans,
    objective_pairs,
    objective_1seq,
    objective_1seq_sbo,
    objective_pairs_sbo,
)
RECIPES: dict[str, Recipe] = {file.RECIPE.name: file.RECIPE for file in _FILES}


def recipe_list() -> str:
    """A line a recipe, for `--recipe list`."""
    return "\n".join(f"  {recipe.name:<22}{recipe.title}" for recipe in RECIPES.values())
