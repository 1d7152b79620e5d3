# SPDX-License-Identifier: Apache-2.0
"""Trains a masked language model with Trainer, as people do: the steps of transformers' example of that name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain

from datasets import load_dataset
from transformers import AutoConfig, AutoTokenizer, HfArgumentParser, Trainer, TrainingArguments, set_seed

from transformers import AutoModelForMaskedLM  # isort: skip
from transformers import DataCollatorForLanguageModeling  # isort: skip


@dataclass
class ModelArguments:
    config_name: str
    tokenizer_name: str
    model_name_or_path: str | None = None
    trust_remote_code: bool = False


@dataclass
class DataArguments:
    train_file: str
    validation_file: str
    cache_dir: str
    max_seq_length: int = 32
    mlm_probability: float = 0.15
    line_by_line: bool = False
    argmax_per_batch: bool = False


def main() -> Trainer:
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    set_seed(training_args.seed)

    files = {"train": data_args.train_file, "validation": data_args.validation_file}
    raw_datasets = load_dataset("text", data_files=files, cache_dir=data_args.cache_dir)
    config = AutoConfig.from_pretrained(
        model_args.config_name, trust_remote_code=model_args.trust_remote_code
    )
    tokenizer = AutoTokenizer.from_pretrained(
        model_args.tokenizer_name, use_fast=True, trust_remote_code=model_args.trust_remote_code
    )
    if model_args.model_name_or_path:
        model = AutoModelForMaskedLM.from_pretrained(
            model_args.model_name_or_path,
            from_tf=bool(".ckpt" in model_args.model_name_or_path),
            config=config,
            cache_dir=data_args.cache_dir,
            revision="main",
            token=None,
            trust_remote_code=model_args.trust_remote_code,
        )
    else:
        model = AutoModelForMaskedLM.from_config(config, trust_remote_code=model_args.trust_remote_code)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))

    def tokenize(examples):
        options = (
            {"truncation": True, "max_length": data_args.max_seq_length} if data_args.line_by_line else {}
        )
        texts = [line for line in examples["text"] if line and not line.isspace()]
        return tokenizer(texts, return_special_tokens_mask=True, **options)

    def group_texts(examples):
        joined = {name: list(chain(*examples[name])) for name in examples}
        length = data_args.max_seq_length
        total = len(joined["input_ids"]) // length * length
        result = {name: [x[i : i + length] for i in range(0, total, length)] for name, x in joined.items()}
        result["labels"] = result["input_ids"].copy()
        return result

    with training_args.main_process_first(desc="dataset map"):
        data = raw_datasets.map(tokenize, batched=True, remove_columns=["text"])
        if not data_args.line_by_line:
            data = data.map(group_texts, batched=True)

    def preprocess_logits_for_metrics(logits, labels):
        if isinstance(logits, tuple):
            logits = logits[0]
        return logits.argmax(dim=-1)

    def compute_metrics(evaluation):
        predictions, labels = evaluation
        if not data_args.argmax_per_batch:
            predictions = predictions.argmax(-1)
        labels, predictions = labels.reshape(-1), predictions.reshape(-1)
        masked = labels != -100
        return {"accuracy": float((predictions[masked] == labels[masked]).mean())}

    data_collator = DataCollatorForLanguageModeling(
        tokenizer=tokenizer,
        mlm_probability=data_args.mlm_probability,
        pad_to_multiple_of=8 if data_args.line_by_line else None,
    )
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
        data_collator=data_collator,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=preprocess_logits_for_metrics if data_args.argmax_per_batch else None,
    )

    result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()
    metrics = result.metrics | {"train_samples": len(data["train"]), "global_step": trainer.state.global_step}
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_state()

    metrics = trainer.evaluate()
    metrics["eval_samples"] = len(data["validation"])
    try:
        perplexity = math.exp(metrics["eval_loss"])
    except OverflowError:
        perplexity = float("inf")
    metrics["perplexity"] = perplexity
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    return trainer


if __name__ == "__main__":
    trainer = main()
