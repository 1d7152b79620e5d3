"""One pre-training run, top to bottom: documents, tokenizer, blocks, model, Trainer, report."""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_progress_bars
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.integrations import TensorBoardCallback
from transformers.utils.logging import disable_progress_bar

from spanbert_ext.masking.callback import SpanMaskingCallback
from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.models.output import span_metrics
from spanbert_ext.pretrain.blocks import build_blocks, rows_in_memory
from spanbert_ext.pretrain.checkpoints import (
    CHECKPOINTS,
    METRICS_FILE,
    PLOT_FILE,
    RUN_FILE,
    TENSORBOARD,
    TOKENIZER,
    RunError,
    last_checkpoint,
    prepare_output,
)
from spanbert_ext.pretrain.corpus import load_documents
from spanbert_ext.pretrain.held_out import split_documents
from spanbert_ext.pretrain.recipes import (
    MASKING_SCHEMES,
    MODELS,
    OptionError,
    Options,
    load_options,
    save_options,
)
from spanbert_ext.pretrain.report import (
    build_metrics,
    plot_losses,
    span_table,
    summary,
    unigram_counts,
    write_metrics,
)
from spanbert_ext.pretrain.starting_model import build_model
from spanbert_ext.pretrain.text_files import CorpusError
from spanbert_ext.pretrain.tokenizer import TokenizerError, load_tokenizer, train_tokenizer

USER_ERRORS = (OptionError, RunError, CorpusError, TokenizerError)  # what the user can correct
INDICES = ("masked_positions", "left_boundary", "right_boundary")


class Interrupted(Exception):
    """A signal ended the run, after a checkpoint; `signal_number` is the signal's."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class StopOnSignal(TrainerCallback):
    """Ctrl-C and SIGTERM end training after the running step, with a checkpoint; a second one ends it at
    once."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            raise KeyboardInterrupt
        self.signal_number = number
        print("\nStopping after this step with a checkpoint; once more stops at once.", flush=True)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if self.signal_number is not None:
            control.should_save = control.should_training_stop = True
        return control


class SpanTrainer(Trainer):
    """Trainer that logs both heads' losses by token."""

    def __init__(self, *args: Any, sbo: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sbo = sbo
        self.tokens_seen = 0.0
        self.evaluation_seconds = 0.0
        self._sums = torch.zeros(7, device=self.args.device)  # six row statistics and the tokens read

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        tokens = inputs["attention_mask"].sum()
        if not self.sbo:
            inputs = {name: value for name, value in inputs.items() if name not in INDICES}
        if not model.training:
            inputs = {**inputs, "return_logits": False}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self._sums[:6] += outputs["row_statistics"].detach().sum(0)  # [B, 6] -> [6]
            self._sums[6] += tokens
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:  # a training log, not an evaluation's or the last summary
            sums = self.accelerator.reduce(self._sums, "sum").tolist()
            logs["mlm_loss"], logs["mlm_accuracy"] = sums[0] / max(sums[1], 1), sums[2] / max(sums[1], 1)
            if self.sbo:
                logs["sbo_loss"], logs["sbo_accuracy"] = sums[3] / max(sums[4], 1), sums[5] / max(sums[4], 1)
            self.tokens_seen += sums[6]
            self._sums.zero_()
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        start = time.perf_counter()
        metrics = super().evaluate(*args, **kwargs)
        self.evaluation_seconds += time.perf_counter() - start
        return metrics


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


def load_data(
    options: Options, folder: Path
) -> tuple[PreTrainedTokenizerBase, Dataset, Dataset, dict[str, Any]]:
    """Tokenizer, training blocks, held-out blocks, and facts about the corpus for the report."""
    documents = load_documents(options.corpus, options.cache_dir)
    split = split_documents(documents, options.held_out)
    print(f"Held out: {split.rule}.", flush=True)
    name = options.tokenizer or (None if options.model in MODELS else options.model)
    if name is None and options.resume:
        name = str(folder / TOKENIZER)
    if name is not None:
        tokenizer = load_tokenizer(name)
    else:
        tokenizer = train_tokenizer(
            lambda: (
                text for batch in split.train.iter(rows_in_memory(split.train)) for text in batch["text"]
            ),
            options.vocab_size,
        )
    train = build_blocks(split.train, tokenizer, options.block_size, options.workers)
    held_out = build_blocks(split.held_out, tokenizer, options.block_size, options.workers)
    for part, blocks in (("training", train), ("held-out", held_out)):
        if not len(blocks):
            raise CorpusError(f"the tokenizer finds no token in the {part} documents")
    digest = hashlib.blake2b(
        np.asarray(documents.data.column("digest")).tobytes(), digest_size=8
    )  # order counts
    facts = {
        "corpus": options.corpus or ["the interpreter's documentation (built-in)"],
        "corpus_digest": digest.hexdigest(),
        "documents": len(documents),
        "held_out_unit": split.unit,
        f"held_out_{split.unit}": len(split.held_out),
        "train_blocks": len(train),
        "held_out_blocks": len(held_out),
    }
    return tokenizer, train, held_out, facts


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
    set_seed(options.seed)
    tokenizer, train, held_out, facts = load_data(options, folder)
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

    collator = DataCollatorForSpanMasking(
        tokenizer, seed=options.seed, ratio=options.ratio, scheme=MASKING_SCHEMES[options.masking]
    )
    stop = StopOnSignal()
    trainer = SpanTrainer(
        model=model,
        args=training_arguments(options, folder / CHECKPOINTS),
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
        sbo=options.sbo,
    )
    checkpoint = last_checkpoint(folder) if options.resume else None
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
    history = trainer.state.log_history
    evaluations = [log for log in history if "eval_mlm_loss" in log and log["step"] == options.max_steps]
    evaluation = evaluations[-1] if evaluations else trainer.evaluate()
    held_out_counts = unigram_counts(held_out, tokenizer)
    metrics = build_metrics(evaluation, held_out_counts, counts, options, facts)
    write_metrics(metrics, folder / METRICS_FILE)
    plot_losses(history, metrics["unigram_entropy"], folder / PLOT_FILE)
    if options.samples:
        # from all over the held-out text; twice as many blocks, because some have no span with two neighbours
        spread = np.linspace(0, len(held_out) - 1, min(len(held_out), 2 * options.samples)).astype(int)
        rows = [held_out[int(i)] for i in np.random.default_rng(options.seed).permutation(spread)]
        table = span_table(model, tokenizer, collator.evaluation()(rows), options.samples, options.sbo)
        print(f"\nMasked spans of held-out text:\n{table}")
    print("\n" + summary(metrics) + f"\n\nCheckpoint, {METRICS_FILE}, {PLOT_FILE}: {folder}")
    return metrics
