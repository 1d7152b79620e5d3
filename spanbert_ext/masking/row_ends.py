# SPDX-License-Identifier: Apache-2.0
"""Whether a tokenizer makes rows that begin and end as those of pre-training."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

REMEDY = "give it a post-processor, tokenizers.processors.TemplateProcessing, and save it"


def without_row_ends(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What is wrong with a tokenizer that has cls and sep and does not put them around a text: rows that are built of
    ids, as in pre-training, have them, and what is made by calling it has not."""
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    if first is None or last is None:
        return None
    ids = list(tokenizer("")["input_ids"])
    if ids[:1] == [first] and ids[-1:] == [last]:
        return None
    return f"the tokenizer does not put {tokenizer.cls_token} and {tokenizer.sep_token} around a text"
