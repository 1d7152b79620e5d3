# SPDX-License-Identifier: Apache-2.0
"""Evaluates one model with Trainer in all ways, on rows of many lengths: `evaluations.py FOLDER BATCH_SIZE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from tiny_models import make_model, tiny_texts, tiny_tokenizer
from transformers import EvalPrediction, Trainer, TrainingArguments

from spanbert_ext import DataCollatorForSpanMasking, span_metrics


def of_logits(evaluation: EvalPrediction) -> dict[str, float]:
    predictions, labels = evaluation.predictions.argmax(-1), evaluation.label_ids
    masked = labels != -100
    return {"accuracy": float((predictions == labels)[masked].mean()), "masked": int(masked.sum())}


def all_ways(folder: str, batch_size: int) -> dict[str, dict[str, float]]:
    tokenizer = tiny_tokenizer()
    rows = [dict(tokenizer(text)) for text in tiny_texts(16, words=(1, 40))]
    found = {}
    for name, metrics, options in (
        ("logits", of_logits, {}),
        ("statistics", span_metrics, {}),
        ("batches", span_metrics, {"batch_eval_metrics": True}),
        ("loss", None, {}),
    ):
        trainer = Trainer(
            make_model(),
            TrainingArguments(
                folder,
                per_device_eval_batch_size=batch_size,
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                **options,
            ),
            data_collator=DataCollatorForSpanMasking(tokenizer, epoch=0),
            eval_dataset=rows,
            compute_metrics=metrics,
        )
        given: list[list[str]] = []
        trainer.model.register_forward_hook(lambda module, inputs, output, g=given: g.append(list(output)))
        numbers = {key: x for key, x in trainer.evaluate().items() if not key.endswith(("_second", "time"))}
        found[name] = numbers | {"logits": all("logits" in names for names in given)}
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    found = all_ways(str(folder), int(sys.argv[2]))
    rank = torch.distributed.get_rank()
    (folder / f"evaluations-{rank}.json").write_text(json.dumps(found))
