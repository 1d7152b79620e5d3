# SPDX-License-Identifier: Apache-2.0
"""A tokenizer that does not put cls and sep around a text is told from one that does."""

from __future__ import annotations

import pytest
from tiny_models import tiny_tokenizer
from tokenizers.processors import ByteLevel, TemplateProcessing
from transformers import PreTrainedTokenizerFast

from spanbert_ext.masking.row_ends import without_row_ends

NAMES = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")}


def processed_by(processor: object, **names: str) -> PreTrainedTokenizerFast:
    backend = tiny_tokenizer().backend_tokenizer
    backend.post_processor = processor
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def template(row: str) -> TemplateProcessing:
    bert = tiny_tokenizer()
    ids = [("[CLS]", bert.cls_token_id), ("[SEP]", bert.sep_token_id)]
    return TemplateProcessing(single=row, pair=f"{row} $B", special_tokens=ids)


def test_a_row_that_begins_and_ends_right() -> None:
    assert without_row_ends(tiny_tokenizer()) is None
    assert without_row_ends(processed_by(template("[CLS] $A [SEP]"), **NAMES)) is None


@pytest.mark.parametrize("processor", [ByteLevel(), template("$A [SEP]"), template("[CLS] $A")], ids=str)
def test_one_that_does_not(processor: object) -> None:
    said = without_row_ends(processed_by(processor, **NAMES))
    assert said == "the tokenizer does not put [CLS] and [SEP] around a text"


def test_one_without_such_tokens_cannot() -> None:
    assert without_row_ends(processed_by(ByteLevel(), unk_token="[UNK]")) is None
