# SPDX-License-Identifier: Apache-2.0
"""How a run's rows are masked: its options in terms of the collator and its masker."""

from __future__ import annotations

from typing import Any

from spanbert_ext.pretrain.settings.options import Options

# What is drawn together, and whether what becomes of it is drawn once for a span, as in SpanBERT, or for each token, as
# in BERT. Entities and noun phrases are the candidates of a draw; a draw without one masks a word.
MASKINGS: dict[str, dict[str, Any]] = {
    "spans": {"scheme": "geometric", "replacement": "span"},
    "words": {"scheme": "words", "replacement": "token"},
    "tokens": {"scheme": "tokens", "replacement": "token"},
    "entities": {"scheme": "words", "replacement": "span"},
    "noun-phrases": {"scheme": "words", "replacement": "span"},
}
CANDIDATES = ("entities", "noun-phrases")  # maskings that need candidates in the rows


def collator_options(options: Options) -> dict[str, Any]:
    """Keyword arguments of `DataCollatorForSpanMasking`, beside the tokenizer. options: resolved ones."""
    chosen = {"seed": options.seed, "ratio": options.ratio, **MASKINGS[options.masking]}
    if options.masking in CANDIDATES:
        chosen["candidate_share"] = options.candidate_share
    if options.dupe_factor:
        chosen["dupe_factor"] = options.dupe_factor
    return chosen
