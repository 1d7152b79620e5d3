# SPDX-License-Identifier: Apache-2.0
"""What the systems of Joshi et al. 2020 have in common (section 4.2, appendix A): all but masks, rows and objective."""

from __future__ import annotations

SCHEDULE = {
    "block_size": 512,
    "tokens_per_batch": 131_072,  # "256 sequences of 512": on average 390 rows, because most are shorter
    "gradient_accumulation": 8,
    "max_steps": 2_400_000,
    "learning_rate": 1e-4,
    "warmup_steps": 10_000,
    "weight_decay": 0.1,
    "decay_all": False,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "adam_bias_correction": True,
    "max_grad_norm": 1.0,
    "dropout": 0.1,
    "ratio": 0.15,
    "dupe_factor": 0,
    "vocab_size": 28_996,
    "unused_ids": 100,
    "held_out": 0.01,
    "eval_steps": 10_000,
    "logging_steps": 100,
}
BLOCKS = {"rows": "blocks", "short_rows": 0.0, "short_phase": 0.0, "nsp": False}  # one segment
PAIRS = {"rows": "spanbert-pairs", "short_rows": 0.0, "short_phase": 0.0, "nsp": True}  # two

PAPER = (
    "rows of at most 512 tokens, 131,072 tokens an update, 2.4 M updates; masks are fresh in every epoch",
    "AdamW: peak 1e-4 after 10,000 updates, then linear to 0; weight decay 0.1, epsilon 1e-8, gradients clipped"
    " at 1.0, dropout 0.1",
)
BLOCKS_CODE = ("rows are whole sentences of one document, as many as fit",)
PAIRS_CODE = (
    "pairs are built once, only their masks are fresh; A is the first 1 to n-2 of n sentences (the first of 2 or 3)",
    "the next-sentence loss is a mean over rows, added with weight 1",
)
# As this saves the steps that would only learn them. Of Google's BERT too.
OUTPUT_BIASES = (
    "the biases of the output vocabulary begin at the log frequencies of the training text (published: 0)"
)
OURS = (
    "weight decay spares biases and norms (the published command: 0.01, on all parameters), and gradients are not"
    " divided by the number of targets once more, as the published trainer does",
    "random replacements are drawn from all words of the vocabulary (published code: the corpus' own tokens)",
    OUTPUT_BIASES,
)
SBO_CODE = (
    "a span has at most 20 SBO targets, its first tokens (the code's default; the published command: 15)"
)
BLOCKS_OURS = (
    *OURS,
    "a sentence longer than a row is cut (the published code drops it, and a last one takes its row along)",
)
PAIRS_OURS = (
    *OURS,
    "15 % is rounded up over the pair (published code: over A and over B, at most one token more)",
)
ABLATION = (
    "the paper compares checkpoints at 1.2 M of the 2.4 M updates (--max-steps 1200000 gives a schedule that"
    " has come down to 0 there)"
)
