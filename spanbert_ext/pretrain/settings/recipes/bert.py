# SPDX-License-Identifier: Apache-2.0
"""Google's BERT (Devlin et al. 2019), the first of the paper's four systems."""

from __future__ import annotations

from spanbert_ext.pretrain.settings.recipes import joshi
from spanbert_ext.pretrain.settings.recipes.recipe import Recipe

RECIPE = Recipe(
    name="bert",
    title="Google's BERT: pairs and NSP, single tokens with static masks, 128 tokens for 90 % of the updates",
    options={
        "rows": "google-pairs",
        "short_rows": 0.1,
        "short_phase": 0.9,
        "short_block_size": 128,
        "block_size": 512,
        "nsp": True,
        "sbo": False,
        "masking": "tokens",
        "dupe_factor": 10,
        "ratio": 0.15,
        "batch_size": 32,
        "gradient_accumulation": 8,
        "max_steps": 1_000_000,
        "learning_rate": 1e-4,
        "warmup_steps": 10_000,
        "weight_decay": 0.01,
        "decay_all": False,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-6,
        "adam_bias_correction": False,
        "max_grad_norm": 1.0,
        "dropout": 0.1,
        "vocab_size": 28_996,
        "unused_ids": 100,
        "held_out": 0.01,
        "eval_steps": 10_000,
        "logging_steps": 100,
    },
    paper=(
        "256 rows an update, 1 M updates, the first 90 % on rows of 128 tokens, the rest on 512",
        "pairs whose second half is another document's in half of the cases; mean MLM loss + mean NSP loss",
        "peak 1e-4 after 10,000 updates, then linear to 0; dropout 0.1",
    ),
    code=(
        "10 passes over the documents, each with pairs and masks of its own; one in ten documents of a pass has a"
        " random shorter length",
        "AdamW without bias correction, weight decay 0.01 but on biases and norms, epsilon 1e-6, clipped at 1.0",
    ),
    ours=(
        "15 % of a pair without its special tokens, rounded up (Google: rounded, with them; at most 20 of 128)",
        "random replacements are drawn from words alone (Google: special and unused ids too)",
        joshi.OUTPUT_BIASES,
        "GELU in its exact form, as in transformers' BERT (Google: the tanh form); initial weights are not truncated",
    ),
)
