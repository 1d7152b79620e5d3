"""One pre-training run, top to bottom: documents, tokenizer, blocks, model, Trainer, report."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, disable_progress_bars
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    set_seed,
)
from transformers.integrations import TensorBoardCallback
from transformers.utils.logging import disable_progress_bar

from spanbert_ext.masking.callback import SpanMaskingCallback
from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.models.output import span_metrics
from spanbert_ext.pretrain.arguments import choose_precision, training_arguments
from spanbert_ext.pretrain.checkpoints import (
    CHECKPOINTS,
    RUN_FILE,
    TENSORBOARD,
    TOKENIZER,
    RunError,
    last_checkpoint,
    prepare_output,
)
from spanbert_ext.pretrain.closing import close_run
from spanbert_ext.pretrain.data import load_data
from spanbert_ext.pretrain.masking_options import collator_options
from spanbert_ext.pretrain.next_steps import before_and_after, next_commands
from spanbert_ext.pretrain.options import OptionError, Options, load_options, save_options
from spanbert_ext.pretrain.plan import describe_recipe, make_plan, settle
from spanbert_ext.pretrain.report import unigram_counts
from spanbert_ext.pretrain.schedule_length import TrainingRows
from spanbert_ext.pretrain.signals import Interrupted, StopOnSignal
from spanbert_ext.pretrain.starting_model import build_model
from spanbert_ext.pretrain.text_files import CorpusError
from spanbert_ext.pretrain.tokenizer import TokenizerError
from spanbert_ext.pretrain.trainer import SpanTrainer

USER_ERRORS = (OptionError, RunError, CorpusError, TokenizerError)  # what the user can correct


def run(options: Options) -> dict[str, Any]:
    """Trains, evaluates and reports; returns the content of metrics.json.

    options: resolved ones (`Options.resolve`, or `load_options` of the run to resume). Writes into
    `options.output`: the model with its tokenizer, metrics.json, losses.png, run.json and the folders
    checkpoints, tensorboard and tokenizer. Raises `OptionError`, `RunError`, `CorpusError`,
    `TokenizerError`, each naming what is wrong and where, and `Interrupted` when a signal ended the run
    early, after a checkpoint."""
    folder = Path(options.output).expanduser()
    prepare_output(folder, resume=options.resume, overwrite=options.overwrite)
    if not options.progress:
        disable_progress_bars()
        disable_progress_bar()
    if options.recipe is not None:
        print(describe_recipe(options), flush=True)
    set_seed(options.seed_of_32_bits)
    tokenizer, train, held_out, facts = load_data(options, folder)
    copies = options.dupe_factor if options.rows != "blocks" else 0  # passes that made pairs of their own
    rows = TrainingRows(row_lengths(train), passes=max(1, copies))
    processes = int(os.environ.get("WORLD_SIZE", 1))
    options = settle(options, rows, processes, choose_precision(options))
    counts = unigram_counts(train, tokenizer)
    model = build_model(options, tokenizer, counts)
    if options.resume:
        _, begun = load_options(folder / RUN_FILE, {})
        if begun["corpus_digest"] != facts["corpus_digest"]:
            raise RunError(
                f"the corpus is not the one that the run in {folder} began with: it cannot be resumed"
            )
    else:
        tokenizer.save_pretrained(folder / TOKENIZER)
        save_options(options, folder / RUN_FILE, corpus_digest=facts["corpus_digest"])

    collator = DataCollatorForSpanMasking(tokenizer, **collator_options(options))
    checkpoint = last_checkpoint(folder) if options.resume else None
    stop = StopOnSignal()
    trainer = SpanTrainer(
        model=model,
        args=training_arguments(options, folder / CHECKPOINTS, resumed=checkpoint is not None),
        train_dataset=train,
        eval_dataset=held_out,
        data_collator=collator,
        processing_class=tokenizer,
        compute_metrics=span_metrics,
        callbacks=[
            SpanMaskingCallback(collator),
            TensorBoardCallback(SummaryWriter(str(folder / TENSORBOARD))),
            stop,
        ],
        options=options,
    )
    taken = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    held_out_lengths = row_lengths(held_out)
    plan = make_plan(trainer, options, collator, facts["documents"], train, rows, held_out_lengths, taken)
    if trainer.is_world_process_zero():
        print(plan.text(), flush=True)
    start = time.perf_counter()
    with stop.installed():
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    seconds = time.perf_counter() - start - trainer.evaluation_seconds
    if stop.signal_number is not None and trainer.state.global_step < options.max_steps:
        raise Interrupted(stop.signal_number)
    facts["steps"] = trainer.state.global_step
    if trainer.tokens_seen:  # nothing when a finished run is resumed
        facts["train_seconds"] = round(seconds, 1)
        facts["tokens_per_second"] = round(trainer.tokens_seen / seconds, 1)

    trainer.save_model(str(folder))
    metrics = close_run(trainer, collator, options, facts, counts)
    if trainer.is_world_process_zero():
        print(f"\n{before_and_after(trainer.state.log_history)}\n\n{next_commands(options)}")
    return metrics


def row_lengths(rows: Dataset) -> np.ndarray:
    """int64 [N]: tokens of each row, special ones included."""
    return pc.list_value_length(rows.data.column("input_ids")).to_numpy().astype(np.int64)
