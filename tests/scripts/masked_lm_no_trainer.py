# SPDX-License-Identifier: Apache-2.0
"""Trains a masked language model in a loop under Accelerate: the steps of transformers' example of that name."""

from __future__ import annotations

import argparse
import json
import math
import os
from itertools import chain

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import load_dataset
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoTokenizer, get_scheduler

from transformers import AutoModelForMaskedLM  # isort: skip
from transformers import DataCollatorForLanguageModeling  # isort: skip


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("train_file", "validation_file", "cache_dir", "config_name", "tokenizer_name", "output_dir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--model_name_or_path")
    parser.add_argument("--trust_remote_code", action="store_true")
    parser.add_argument("--max_seq_length", type=int, default=32)
    parser.add_argument("--mlm_probability", type=float, default=0.15)
    parser.add_argument("--per_device_train_batch_size", type=int, default=4)
    parser.add_argument("--per_device_eval_batch_size", type=int, default=4)
    parser.add_argument("--learning_rate", type=float, default=5e-3)
    parser.add_argument("--weight_decay", type=float, default=0.01)
    parser.add_argument("--num_train_epochs", type=int, default=2)
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--checkpointing_steps", default="epoch")
    parser.add_argument("--resume_from_checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> Accelerator:
    args = parse_args()
    accelerator = Accelerator(gradient_accumulation_steps=args.gradient_accumulation_steps)
    set_seed(args.seed)

    files = {"train": args.train_file, "validation": args.validation_file}
    raw_datasets = load_dataset("text", data_files=files, cache_dir=args.cache_dir)
    config = AutoConfig.from_pretrained(args.config_name, trust_remote_code=args.trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer_name, trust_remote_code=args.trust_remote_code)
    if args.model_name_or_path:
        model = AutoModelForMaskedLM.from_pretrained(
            args.model_name_or_path,
            from_tf=bool(".ckpt" in args.model_name_or_path),
            config=config,
            trust_remote_code=args.trust_remote_code,
        )
    else:
        model = AutoModelForMaskedLM.from_config(config, trust_remote_code=args.trust_remote_code)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer))

    def tokenize(examples):
        return tokenizer(examples["text"], return_special_tokens_mask=True)

    def group_texts(examples):
        joined = {name: list(chain(*examples[name])) for name in examples}
        length = args.max_seq_length
        total = len(joined["input_ids"]) // length * length
        result = {name: [x[i : i + length] for i in range(0, total, length)] for name, x in joined.items()}
        result["labels"] = result["input_ids"].copy()
        return result

    with accelerator.main_process_first():
        data = raw_datasets.map(tokenize, batched=True, remove_columns=["text"])
        data = data.map(group_texts, batched=True)
    train, validation = data["train"], data["validation"]

    data_collator = DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=args.mlm_probability)
    train_loader = DataLoader(
        train, shuffle=True, collate_fn=data_collator, batch_size=args.per_device_train_batch_size
    )
    eval_loader = DataLoader(validation, collate_fn=data_collator, batch_size=args.per_device_eval_batch_size)

    plain = ("bias", "LayerNorm.weight")
    groups = [
        {
            "params": [p for name, p in model.named_parameters() if any(x in name for x in plain) == without],
            "weight_decay": 0.0 if without else args.weight_decay,
        }
        for without in (False, True)
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate)
    steps_per_epoch = math.ceil(len(train_loader) / args.gradient_accumulation_steps)
    scheduler = get_scheduler(
        "linear",
        optimizer=optimizer,
        num_warmup_steps=0,
        num_training_steps=args.num_train_epochs * steps_per_epoch * accelerator.num_processes,
    )
    model, optimizer, train_loader, eval_loader, scheduler = accelerator.prepare(
        model, optimizer, train_loader, eval_loader, scheduler
    )
    steps_per_epoch = math.ceil(len(train_loader) / args.gradient_accumulation_steps)

    completed_steps, starting_epoch, resume_step = 0, 0, None
    if args.resume_from_checkpoint:
        accelerator.load_state(args.resume_from_checkpoint)
        kind, _, number = os.path.basename(args.resume_from_checkpoint).partition("_")
        if kind == "epoch":
            starting_epoch = int(number) + 1
        else:
            starting_epoch, resume_step = divmod(int(number), steps_per_epoch)
        completed_steps = starting_epoch * steps_per_epoch + (resume_step or 0)

    results = {}
    for epoch in range(starting_epoch, args.num_train_epochs):
        model.train()
        batches = train_loader
        if epoch == starting_epoch and resume_step is not None:
            batches = accelerator.skip_first_batches(
                train_loader, resume_step * args.gradient_accumulation_steps
            )
        total_loss = 0.0
        for batch in batches:
            with accelerator.accumulate(model):
                outputs = model(**batch)
                loss = outputs.loss
                total_loss += loss.detach().float()
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                completed_steps += 1
                if (
                    args.checkpointing_steps.isdigit()
                    and completed_steps % int(args.checkpointing_steps) == 0
                ):
                    accelerator.save_state(os.path.join(args.output_dir, f"step_{completed_steps}"))

        model.eval()
        losses = []
        for batch in eval_loader:
            with torch.no_grad():
                outputs = model(**batch)
            loss = outputs.loss
            losses.append(accelerator.gather_for_metrics(loss.repeat(args.per_device_eval_batch_size)))
        losses = torch.cat(losses)
        try:
            eval_loss = torch.mean(losses)
            perplexity = math.exp(eval_loss)
        except OverflowError:
            perplexity = float("inf")
        results = {
            "perplexity": perplexity,
            "eval_loss": eval_loss.item(),
            "losses": len(losses),
            "train_loss": total_loss.item() / len(train_loader),
            "epoch": epoch,
            "step": completed_steps,
        }
        accelerator.print(results)
        if args.checkpointing_steps == "epoch":
            accelerator.save_state(os.path.join(args.output_dir, f"epoch_{epoch}"))

    accelerator.wait_for_everyone()
    accelerator.unwrap_model(model).save_pretrained(
        args.output_dir, is_main_process=accelerator.is_main_process, save_function=accelerator.save
    )
    if accelerator.is_main_process:
        tokenizer.save_pretrained(args.output_dir)
        with open(os.path.join(args.output_dir, "all_results.json"), "w") as file:
            json.dump(results, file)
    accelerator.end_training()
    return accelerator


if __name__ == "__main__":
    accelerator = main()
