"""A run's options in Trainer's terms."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainingArguments

from spanbert_ext.pretrain.options import OptionError, Options


def training_arguments(options: Options, folder: Path) -> TrainingArguments:
    """The run's recipe in Trainer's terms: AdamW, linear warm-up and decay, decoupled weight decay, clipping.

    Raises `OptionError` for a device that is not there.
    """
    cuda = torch.cuda.is_available()
    if options.device == "cuda" and not cuda:
        raise OptionError("--device is cuda but torch finds no usable GPU")
    use_cpu = options.device == "cpu" or not cuda
    if options.bf16 and not use_cpu and not torch.cuda.is_bf16_supported():
        raise OptionError(f"--bf16: {torch.cuda.get_device_name()} has no bfloat16")
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=options.max_steps,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        learning_rate=options.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=options.warmup_steps,
        weight_decay=options.weight_decay,
        adam_beta2=options.adam_beta2,
        adam_epsilon=options.adam_epsilon,
        max_grad_norm=options.max_grad_norm,
        bf16=options.bf16,
        use_cpu=use_cpu,
        seed=options.seed,
        dataloader_num_workers=options.workers,
        dataloader_pin_memory=not use_cpu,
        eval_strategy="steps",
        eval_steps=options.eval_steps,
        save_strategy="steps",
        save_steps=options.save_steps,
        save_total_limit=2,
        logging_steps=options.logging_steps,
        logging_first_step=True,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=not options.progress,
    )
