# SPDX-License-Identifier: Apache-2.0
"""A run's options in Trainer's terms."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainingArguments

from spanbert_ext.files.bars import bars_shown
from spanbert_ext.ops.self_check import self_check
from spanbert_ext.pretrain.settings.options import OptionError, Options


def on_gpu(options: Options) -> bool:
    """Whether the run trains on a GPU. Raises `OptionError` for one that is asked for and not there."""
    cuda = torch.cuda.is_available()
    if options.device == "cuda" and not cuda:
        raise OptionError("--device is cuda but torch finds no usable GPU")
    return cuda and options.device != "cpu"


def choose_precision(options: Options) -> bool:
    """Whether the run uses bfloat16 autocast: as the user says, else where a GPU computes in bfloat16. CPUs stay with
    float32 unless asked: most have no bfloat16 products, and tiny models lose by the casts. Raises `OptionError`."""
    gpu = on_gpu(options)
    native = gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if options.bf16 and gpu and not native:
        raise OptionError(f"--bf16: {torch.cuda.get_device_name()} has no bfloat16")
    return native if options.bf16 is None else options.bf16


def check_kernels(options: Options) -> None:
    """Takes a small step of both heads on the run's GPU, and compares it with plain PyTorch's. Raises `OptionError`,
    with the way around, where the compiled operators are missing there or compute something else."""
    if not on_gpu(options) or options.impl == "reference":
        return
    try:
        wrong = [one.what for one in self_check("cuda") if not one.passed]
        found = f"compute something else than plain PyTorch on this GPU ({', '.join(wrong)})" if wrong else ""
    except RuntimeError as error:
        found = f"do not run on this GPU: {error}"
    if found:
        raise OptionError(
            f"the compiled operators {found}. --impl reference trains without them; python -m spanbert_ext --check"
            " shows more"
        )


def training_arguments(options: Options, folder: Path, *, resumed: bool = False) -> TrainingArguments:
    """The run's schedule in Trainer's terms: AdamW, linear warm-up and decay, decoupled weight decay, clipping.

    options: with steps (`Options.with_steps`). resumed: from a checkpoint, which was evaluated at step 0 before.
    Raises `OptionError` for a device that is not there.
    """
    use_cpu = not on_gpu(options)
    arguments = TrainingArguments(
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
        bf16=choose_precision(options),
        use_cpu=use_cpu,
        seed=options.seed_of_32_bits,
        dataloader_num_workers=options.workers,
        dataloader_pin_memory=not use_cpu,
        eval_strategy="steps",
        eval_steps=options.eval_steps,
        eval_on_start=not resumed,
        save_strategy="steps",
        save_steps=options.save_steps,
        save_total_limit=2,
        logging_steps=options.logging_steps,
        logging_first_step=True,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=not bars_shown(options.progress),
    )
    if (
        arguments.n_gpu > 1
    ):  # in one process, where Trainer takes nn.DataParallel: it copies the model in every pass
        arguments._n_gpu = 1
    # of several processes Trainer before 5.18 loads the optimizer's state to "cpu:0", which torch does not know
    if use_cpu and arguments.world_size > 1:
        arguments._setup_devices = torch.device("cpu")
    return arguments
