# SPDX-License-Identifier: Apache-2.0
"""Small ones of what the pages name, so that what stands there runs unchanged: a local folder goes before the hub."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import torch
from tiny_models import make_model, tiny_config, tiny_texts, tiny_tokenizer
from transformers import BertForMaskedLM

from spanbert_ext import SpanBertForPreTraining
from spanbert_ext.convert.convert_cli import main as convert


def make_workplace(folder: Path) -> None:
    bert, ours, text = (folder / name for name in ("bert-base-cased", "my-spanbert", "notes"))
    BertForMaskedLM(tiny_config()).save_pretrained(bert)
    trained().save_pretrained(ours)
    for model in (bert, ours):
        tiny_tokenizer(model_max_length=64).save_pretrained(model)
    text.mkdir()
    (text / "notes.txt").write_text("\n".join(tiny_texts(24)), encoding="utf-8")
    with (folder / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows((line, number % 2) for number, line in enumerate(tiny_texts(8)))
    published = folder / "spanbert_large_with_head"
    form = ["--to", "fairseq", "--with-args", "--no-progress"]
    assert convert([str(ours), *form, "--output", str(published)]) == 0
    shutil.copy(published / "vocab.txt", folder)


def trained() -> SpanBertForPreTraining:
    """With weights that are no longer those of the beginning, so that its span-boundary head counts as trained."""
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model
