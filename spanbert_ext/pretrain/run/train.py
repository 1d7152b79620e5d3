# SPDX-License-Identifier: Apache-2.0
"""One pre-training run, top to bottom: lock, text, tokenizer, model, Trainer, report."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed

from spanbert_ext._library import build_info
from spanbert_ext.files.disk import DiskError, explained, removed_where_empty
from spanbert_ext.files.lock import InUse, run_lock
from spanbert_ext.files.paths import given_path
from spanbert_ext.masking.callback import SpanMaskingCallback
from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.pretrain.rows.tokenizer import TokenizerError, tokenizer_sha256
from spanbert_ext.pretrain.run.arguments import check_kernels, choose_precision, training_arguments
from spanbert_ext.pretrain.run.bad_loss import BadLossError, UpdateGuard
from spanbert_ext.pretrain.run.checkpoints import (
    CHECKPOINTS,
    METRICS_FILE,
    TENSORBOARD,
    TOKENIZER,
    RunError,
    add_to_run_file,
    check_output,
    delete_run,
    delete_unfinished_files,
    finished_steps,
    last_checkpoint,
    save_tokenizer,
    write_run_file,
)
from spanbert_ext.pretrain.run.closing import close_run
from spanbert_ext.pretrain.run.data import RunData, known_tokenizer, load_data, make_schedule
from spanbert_ext.pretrain.run.next_steps import before_and_after, next_commands
from spanbert_ext.pretrain.run.overwriting import check_not_read
from spanbert_ext.pretrain.run.plan import Plan, describe_recipe, make_plan, settle
from spanbert_ext.pretrain.run.ranks import FirstFailed, Ranks
from spanbert_ext.pretrain.run.reporting import reporting_callbacks
from spanbert_ext.pretrain.run.resuming import (
    check_begun,
    check_same,
    check_tokenizer,
    facts_of,
    remember_moved,
)
from spanbert_ext.pretrain.run.room import check_room
from spanbert_ext.pretrain.run.run_card import write_run_card
from spanbert_ext.pretrain.run.sharding import check_kind, check_launch, choose_settings
from spanbert_ext.pretrain.run.signals import Interrupted, StopOnSignal
from spanbert_ext.pretrain.run.starting_model import build_model, check_ids, check_model
from spanbert_ext.pretrain.run.trainer import SpanTrainer
from spanbert_ext.pretrain.settings.bars import library_bars
from spanbert_ext.pretrain.settings.masking_options import collator_options
from spanbert_ext.pretrain.settings.options import OptionError, Options
from spanbert_ext.pretrain.settings.schedule_length import TrainingRows
from spanbert_ext.pretrain.text.text_files import CorpusError

# What the user can correct, and what ended a run that can go on from its last checkpoint.
USER_ERRORS = (OptionError, RunError, CorpusError, TokenizerError, InUse)
FAILURES = (BadLossError, DiskError)
# Facts in run.json that are the same in a run that goes on, and what they are of.
COMPARED = {"corpus_digest": "corpus", "tokenizer_sha256": "tokenizer"}
__all__ = ["FAILURES", "USER_ERRORS", "FirstFailed", "Interrupted", "run"]


@dataclass
class Loaded:
    """All that a run needs before it writes anything. options: with steps (`settle`)."""

    options: Options
    data: RunData
    counts: np.ndarray  # [V] training tokens by id
    trainer: SpanTrainer
    plan: Plan


def run(options: Options, *, plan_only: bool = False) -> dict[str, Any] | None:
    """Trains, evaluates and reports; returns the content of metrics.json. A finished run that is resumed only does
    the latter. With `plan_only` it does and checks what comes before training, prints the plan, leaves the output
    folder as it was, also beside `overwrite`, and returns None.

    options: resolved ones (`Options.resolve`, or `load_options` of the run to resume). Writes into
    `options.output`: the model with its tokenizer, metrics.json, losses.png, run.json and the folders
    checkpoints, tensorboard and tokenizer. What is there is deleted for `overwrite` only when all else is checked.
    Under torchrun or accelerate launch every process calls it; the first one prepares the text and writes.

    Raises one of `USER_ERRORS`, each naming what is wrong and where; one of `FAILURES` when it cannot go on;
    `Interrupted` when a signal ended it; `FirstFailed` in the other processes."""
    folder = given_path(options.output)
    ranks, stop = Ranks(), StopOnSignal()
    with contextlib.ExitStack() as during:
        during.enter_context(stop.installed())
        during.enter_context(library_bars(options.progress))
        during.enter_context(ranks.only_first_prints())
        cpu = options.device == "cpu" or not torch.cuda.is_available()
        choose_settings()
        during.enter_context(ranks.joined(cpu=cpu))
        with ranks.first_goes_ahead():
            check_launch(cpu)
            if ranks.first:
                # Trainer makes that of the checkpoints
                during.enter_context(removed_where_empty(folder, folder / CHECKPOINTS))
                check_output(folder, resume=options.resume, overwrite=options.overwrite)
                check_not_read(options, folder)
                during.enter_context(run_lock(folder))
                # once more: another run may have begun before the lock was ours
                check_output(folder, resume=options.resume, overwrite=options.overwrite)
                if not plan_only:
                    delete_unfinished_files(folder)
            begun = check_begun(options, folder) if options.resume else {}
            steps = finished_steps(folder, begun)
            found = last_checkpoint(folder) if options.resume and ranks.first and steps is None else None
        if steps is not None:
            print(f"The run in {folder} is finished ({steps:,} steps): nothing is left to do.")
            return json.loads((folder / METRICS_FILE).read_text())
        step, checkpoint = ranks.share(found) or (0, None)
        with ranks.first_goes_ahead():
            # the tokenizer is there: for the others, and for a resumed run that was not killed as it began
            saved = dataclasses.replace(options, resume=(folder / TOKENIZER).is_dir())
            given = saved if options.resume or not ranks.first else options
            loaded = _load(given, folder, ranks.count, stop, step, begun)
            if ranks.first:
                check_room(loaded.trainer.model, folder, sharded=loaded.trainer.is_fsdp_enabled)
                if checkpoint:
                    check_kind(checkpoint, loaded.trainer)
                if not plan_only:
                    stop.begun = True
                    _mark(options, folder, loaded, begun, ranks.count)
        if plan_only:
            print(f"{loaded.plan.text()}\nNothing is trained: the command without --plan-only does.")
            return None
        if checkpoint:
            print(f"Going on from step {step:,} of {loaded.options.max_steps:,} ({checkpoint}).", flush=True)
        elif options.resume:
            print(f"There is no checkpoint in {folder / CHECKPOINTS}: beginning at step 0.", flush=True)
        loaded.trainer.shard()
        return _train(loaded, folder, stop, step, checkpoint)


def _load(
    options: Options, folder: Path, processes: int, stop: StopOnSignal, step: int, begun: dict[str, Any]
) -> Loaded:
    """step: that training goes on from. begun: the facts in the run.json of a run that is resumed."""
    try:
        build_info()  # names an unknown SPANBERT_EXT_CPU_CAPABILITY
    except RuntimeError as error:
        raise OptionError(str(error)) from error
    if options.recipe is not None:
        print(describe_recipe(options), flush=True)
    bf16 = choose_precision(options)  # and whether the device is there
    check_kernels(options)
    reporters = reporting_callbacks(options.report_to, folder / TENSORBOARD, step)
    config = check_model(options)
    set_seed(options.seed_of_32_bits)
    tokenizer = known_tokenizer(options, folder)
    if tokenizer is not None:
        check_ids(options, tokenizer)
        if begun:
            check_tokenizer(folder, options, tokenizer, begun)
    data = load_data(options, folder, tokenizer)
    data.facts["tokenizer_sha256"] = tokenizer_sha256(data.tokenizer)
    short = None if data.short is None else data.short.lengths
    rows = TrainingRows(data.train.lengths, short, passes=options.pair_passes)
    options = settle(options, rows, processes, bf16)
    counts = data.train.unigram_counts(len(data.tokenizer))
    collator = DataCollatorForSpanMasking(data.tokenizer, **collator_options(options))
    args = training_arguments(options, folder / CHECKPOINTS, resumed=step > 0)
    args.logging_nan_inf_filter = False  # waits for the device in every pass; the guard looks at updates
    trainer = SpanTrainer(
        model=build_model(options, config, data.tokenizer, counts),
        args=args,
        train_dataset=make_schedule(options, data, processes),
        eval_dataset=data.held_out,
        data_collator=collator,
        processing_class=data.tokenizer,
        callbacks=[
            SpanMaskingCallback(collator),
            *reporters,
            stop,
        ],
        options=options,
        folder=folder,
    )
    guard = UpdateGuard(
        skip=options.on_bad_loss == "skip",
        progress=trainer.progress,
        describe=lambda update: trainer.train_dataset.schedule.describe(update - 1),
    )
    trainer.guard_updates(guard)
    documents = data.facts["documents"]
    unknown = data.tokenizer.unk_token_id
    plan = make_plan(
        trainer,
        options,
        collator,
        documents,
        data.train,
        rows,
        data.held_out.lengths,
        step,
        0.0 if unknown is None else float(counts[unknown] / counts.sum()),
    )
    return Loaded(options, data, counts, trainer, plan)


def _mark(options: Options, folder: Path, loaded: Loaded, begun: dict[str, Any], processes: int) -> None:
    """The folder is that of this run from here on, or still is. options: as they were given."""
    if options.resume:
        check_same(folder, loaded.options, loaded.data, begun, processes)
        remember_moved(folder, loaded.options)
    else:
        _begin(folder, loaded, processes)
    if not (folder / TOKENIZER).is_dir():
        save_tokenizer(loaded.data.tokenizer, folder)


def _begin(folder: Path, loaded: Loaded, processes: int) -> None:
    facts = facts_of(loaded.options, loaded.data)  # reads, so comes before anything is deleted
    with explained("the run", folder):
        delete_run(folder)
        write_run_file(folder, loaded.options, **facts, processes=processes)


def _train(
    loaded: Loaded, folder: Path, stop: StopOnSignal, step: int, checkpoint: Path | None
) -> dict[str, Any]:
    options, trainer = loaded.options, loaded.trainer
    if step < options.max_steps:
        print(loaded.plan.text(), flush=True)
        if step == 0:
            print(loaded.plan.first_evaluation(), flush=True)
        with stop.after_step():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if stop.signal_number is not None and trainer.state.global_step < options.max_steps:
            raise Interrupted(stop.signal_number)
    else:  # ended between its last checkpoint and its report
        trainer.restore(checkpoint)
    return _close(loaded, folder)


def _close(loaded: Loaded, folder: Path) -> dict[str, Any]:
    options, trainer = loaded.options, loaded.trainer
    facts = loaded.data.facts | {"steps": trainer.state.global_step} | trainer.speed_facts()
    trainer.save_result(folder, lambda files: add_to_run_file(folder, files=files))
    # metrics.json does not depend on whether the run was interrupted
    uninterrupted = dataclasses.replace(options, resume=False, overwrite=False)
    metrics = close_run(trainer, uninterrupted, facts, loaded.counts)
    losses = {name: x for name, x in metrics.items() if name.startswith("eval_") and name.endswith("_loss")}
    if not all(np.isfinite(x) for x in losses.values()):
        raise BadLossError(
            f"the held-out loss is not a number ({losses}): {folder / METRICS_FILE} holds null"
        )
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        with explained("the model card", folder):
            write_run_card(folder, model, options, metrics)
        add_to_run_file(folder, finished=trainer.state.global_step)
        print(f"\n{before_and_after(trainer.state.log_history)}\n\n{next_commands(options)}")
    return metrics
