# SPDX-License-Identifier: Apache-2.0
"""The plan of a run, printed before it trains: what is read, how long it takes, what it needs, and what looks wrong."""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import Trainer

from spanbert_ext.files.wording import duration, short
from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.masking.row_ends import REMEDY, without_row_ends
from spanbert_ext.pretrain.run.evaluations import evaluations_to_come, laws_of
from spanbert_ext.pretrain.run.measured_step import MeasuredStep, measure_step
from spanbert_ext.pretrain.run.optimizer import largest_excess
from spanbert_ext.pretrain.run.without_effect import Form, text_forms, without_effect
from spanbert_ext.pretrain.settings.defaults import ALTERNATIVES
from spanbert_ext.pretrain.settings.options import Options, flag
from spanbert_ext.pretrain.settings.recipes import RECIPES
from spanbert_ext.pretrain.settings.schedule_length import TrainingRows, steps_of, tokens_per_update

WIDTH = 100
MANY_UNKNOWN = 0.05  # of a text's tokens; a tokenizer of the text's language has less than a hundredth
NOTABLE_EXCESS = 1.5  # of an update over what the learning rate says
FORWARD_RATE = 3  # of tokens a second that are only read, over those of a step, which go backward too
MANY_PASSES = 100  # of which each adds little; BERT's own run made 40


def settle(options: Options, rows: TrainingRows, processes: int, bf16: bool) -> Options:
    """Resolved options with what depends on the text and the machine filled in: steps, and what follows from them."""
    return dataclasses.replace(options, bf16=bf16).with_steps(steps_of(options, rows, processes))


def describe_recipe(options: Options) -> str:
    """What the run's recipe means, and which of its values the run does not take."""
    recipe = RECIPES[options.recipe]
    changes = []
    for name, value in recipe.options.items():
        chosen = getattr(options, name)
        group = next((group for group in ALTERNATIVES if name in group), (name,))
        instead = next((other for other in (name, *group) if getattr(options, other) is not None), name)
        if chosen == value or (chosen is None and instead == name):
            continue  # or filled in with the number of steps
        was = _number(value) if instead == name else f"{flag(name)} {_number(value)}"
        changes.append(f"{flag(instead)} {_number(getattr(options, instead))} (recipe: {was})")
    if not changes:
        return recipe.describe()
    changed = textwrap.wrap(
        ", ".join(changes), WIDTH, initial_indent=f"  {'changed here':<22}", subsequent_indent=" " * 24
    )
    return "\n".join((recipe.describe(), *changed))


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def make_plan(
    trainer: Trainer,
    options: Options,
    collator: DataCollatorForSpanMasking,
    documents: int,
    train: Any,
    rows: TrainingRows,
    held_out_lengths: np.ndarray,
    steps_taken: int = 0,
    unknown: float = 0.0,
) -> Plan:
    """The plan of a run that is about to train, with a step measured on its `trainer`. Every process calls it.

    options: settled ones. train: the training rows, by number, whose lengths are `rows.lengths`. steps_taken: by a run
    that is resumed. Raises `OptionError` when the longest rows do not fit into a GPU."""
    device = trainer.args.device
    return Plan(
        options=options,
        documents=documents,
        rows=rows,
        held_out=TrainingRows(held_out_lengths),
        parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        processes=trainer.args.world_size,
        gpus=torch.cuda.device_count() if device.type == "cuda" else 0,
        steps_taken=steps_taken,
        unknown=unknown,
        without_row_ends=without_row_ends(collator.tokenizer),
        forms=text_forms(options),
        measured=measure_step(trainer, options, collator, train, rows.lengths),
    )


@dataclass(frozen=True)
class Plan:
    """What `text` tells. options: settled ones. documents: of the whole corpus. held_out: as `rows`, of held-out text.
    parameters: of the model. device: its name for people."""

    options: Options
    documents: int
    rows: TrainingRows
    held_out: TrainingRows
    parameters: int
    device: str
    processes: int = 1
    gpus: int = 0  # that a process sees
    steps_taken: int = 0  # before a resume
    unknown: float = 0.0  # share of the training tokens
    without_row_ends: str | None = None  # what that function says of the tokenizer
    forms: frozenset[Form] = frozenset({"text"})  # that the text is found in
    measured: MeasuredStep | None = None

    @property
    def update_tokens(self) -> float:
        return tokens_per_update(self.options, self.rows, self.processes)

    @property
    def tokens(self) -> float:
        """That the run reads."""
        return self.options.max_steps * self.update_tokens

    @property
    def epochs(self) -> float:
        """Passes over the text."""
        return self.tokens / self.rows.tokens

    @property
    def evaluations(self) -> int:
        """That are to come, with that of step 0 and the last one."""
        taken = self.steps_taken
        to_come = evaluations_to_come(taken, self.options.max_steps, self.options.eval_steps)
        return to_come + (taken == 0)

    @property
    def training_seconds(self) -> float:
        """Of the steps that are to come, where one was measured."""
        return (self.options.max_steps - self.steps_taken) * self._step_seconds()

    @property
    def evaluation_seconds(self) -> float:
        """Of one evaluation, under all ways of masking, where a step was measured."""
        rate = FORWARD_RATE * self.measured.tokens_per_second * self.processes
        return len(laws_of(self.options.masking)) * self.held_out.tokens / rate

    def text(self) -> str:
        """The plan, a fact a line, and its warnings."""
        lines = ["Plan:"]
        width = min(WIDTH, max(40, shutil.get_terminal_size((WIDTH, 24)).columns))
        for title, fact in (*self._facts(), *(("note", warning) for warning in self.warnings())):
            lines += textwrap.wrap(fact, width, initial_indent=f"  {title:<12}", subsequent_indent=" " * 14)
        return "\n".join(lines)

    def _facts(self) -> list[tuple[str, str]]:
        options, rows = self.options, self.rows
        start = "from random weights" if options.starts_fresh else "trained further"
        kind = "pairs" if options.rows != "blocks" else "blocks"
        heads = " + ".join(
            ("MLM", *("SBO" for _ in range(options.sbo)), *("NSP" for _ in range(options.nsp)))
        )
        masks = "fresh in every epoch" if not options.dupe_factor else f"static, {options.dupe_factor} a row"
        facts = [
            ("model", f"{options.model}, {self.parameters / 1e6:,.1f} M parameters, {start}"),
            ("objective", f"{heads}; {options.masking} masked, {options.ratio:.0%} of the tokens, {masks}"),
            (
                "text",
                f"{self.documents:,} document{'s' * (self.documents != 1)}; {len(rows.lengths):,} training {kind} of"
                f" {rows.mean_length:.0f} tokens on average, at most {options.block_size}"
                f" ({rows.mean_length / options.block_size:.0%});"
                f" {len(self.held_out.lengths):,} held out",
            ),
            ("update", self._update()),
            (
                "training",
                f"{_steps(options.max_steps)}, {short(self.tokens)} tokens, {self.epochs:,.2f} passes over the"
                f" text; rate {options.learning_rate:g} after {_steps(options.warmup_steps)}, then linear to 0",
            ),
            (
                "watching",
                f"held-out loss at step 0 and every {_steps(options.eval_steps)}, a checkpoint every"
                f" {_steps(options.save_steps)}",
            ),
            ("precision", f"{'bfloat16 autocast' if options.bf16 else 'float32'} on {self.device}"),
        ]
        if options.short_steps:
            rows_of = f"on rows of at most {options.short_block_size} tokens"
            facts.insert(5, ("", f"the first {_steps(options.short_steps)} {rows_of}"))
        return facts + self._measured()

    def _update(self) -> str:
        options, processes = self.options, self.processes
        passes = options.gradient_accumulation * processes
        where = f" on {processes} processes" if processes > 1 else ""
        if options.tokens_per_batch is not None:
            return f"about {short(self.update_tokens)} tokens in {passes:,} forward pass{'es' * (passes > 1)}{where}"
        return (
            f"{options.batch_size * passes:,} rows, about {short(self.update_tokens)} tokens: {passes:,} forward"
            f" pass{'es' * (passes > 1)} of {options.batch_size:,} rows{where}"
        )

    def _measured(self) -> list[tuple[str, str]]:
        if self.measured is None:
            return [("time", "not measured: before it is sharded, the model does not fit into one GPU")]
        measured = self.measured
        training, evaluating = self.training_seconds, self.evaluations * self.evaluation_seconds
        apart = ", without what they tell each other" if self.processes > 1 else ""
        number = f"{self.evaluations:,} evaluation{'s' * (self.evaluations != 1)}"
        fewer = "" if self.options.resume else " (--eval-steps N for fewer)"
        return [
            (
                "time",
                f"about {duration(training + evaluating)}: {duration(training)} of training{self._left()},"
                f" {duration(evaluating)} in {number}{fewer}",
            ),
            (
                "",
                f"{duration(self._step_seconds())} a step, {short(measured.tokens_per_second * self.processes)} tokens"
                f" a second{apart}; {duration(self.evaluation_seconds)} an evaluation under"
                f" {len(laws_of(self.options.masking))} ways of masking",
            ),
            (
                "memory",
                f"{_bytes(measured.peak_bytes)} of {_bytes(measured.total_bytes)} with the longest rows",
            ),
        ]

    def _step_seconds(self) -> float:
        measured = self.measured
        return self.update_tokens / self.processes / measured.tokens_per_second + measured.update_seconds

    def first_evaluation(self) -> str:
        """What is said before the evaluation at step 0, in which nothing else shows that the run goes on."""
        time = "" if self.measured is None else f", about {duration(self.evaluation_seconds)}"
        ways = len(laws_of(self.options.masking))
        rows = len(self.held_out.lengths)
        return f"Step 0: the loss on {rows:,} held-out rows under {ways} ways of masking{time}"

    def _left(self) -> str:
        return f" from step {self.steps_taken:,} on" if self.steps_taken else ""

    def warnings(self) -> list[str]:
        """What looks wrong, each with a remedy, and what does nothing."""
        options, rows = self.options, self.rows
        found = without_effect(options, self.forms)
        if rows.mean_length < options.block_size / 2 and options.rows == "blocks":
            joined = (
                " A blank line ends a document: where it only ends a paragraph, join these by --document-separator LINE"
                " (a line that your documents end with); else"
            )
            found.append(
                f"documents are short: a row has {rows.mean_length:.0f} of {options.block_size} tokens on average."
                f"{joined if 'text' in self.forms else ''} --block-size {_near(rows.mean_length)} says what there is."
            )
        if self.unknown > MANY_UNKNOWN:
            found.append(
                f"{self.unknown:.0%} of the tokens are unknown to the tokenizer and teach nothing: choose a --model, or"
                " a --tokenizer for one from random weights, of the text's language."
            )
        if self.without_row_ends:
            found.append(
                f"{self.without_row_ends}, as the rows here have them, so that whoever calls it makes other rows than"
                f" the model was trained on: {REMEDY}."
            )
        if self.epochs > MANY_PASSES:
            found.append(
                f"the text is read {self.epochs:,.0f} times; --epochs N or --max-tokens N make a shorter run."
            )
        if options.dupe_factor and self.epochs <= options.dupe_factor:
            found.append(
                f"no mask comes twice: {options.dupe_factor} static ones a row outlast {self.epochs:,.1f} passes, so"
                " they are as good as fresh ones. --dupe-factor 1 shows what static masks do."
            )
        if not options.adam_bias_correction:
            excess, update = largest_excess(options.adam_beta2, options.warmup_steps, options.max_steps)
            if excess > NOTABLE_EXCESS:
                found.append(
                    f"without Adam's bias correction update {update:,} is {excess:.1f} times as large as the rate says,"
                    " which can undo what was learnt: --warmup-steps 1000 or more, or --adam-bias-correction."
                )
        recipe = RECIPES[options.recipe].options if options.recipe else {}
        if recipe.get("short_phase") and not options.short_phase:
            found.append(
                f"the recipe's phase of short rows is left out: --block-size is {options.block_size}, expected more"
                f" than --short-block-size {options.short_block_size}."
            )
        if options.corpus and options.model == "demo" and options.recipe is None:
            found.append(
                "the demo's model is small and starts from random weights; --model bert-base-cased trains a BERT"
                " further on this text."
            )
        if self.gpus > 1 and self.processes == 1:
            found.append(
                f"{self.gpus} GPUs are there and one is used: torchrun --nproc-per-node {self.gpus} -m"
                " spanbert_ext.pretrain.cli trains on all."
            )
        if len(self.held_out.lengths) < 10:
            found.append(
                f"{len(self.held_out.lengths)} held-out rows give a rough loss; --held-out takes a larger share."
            )
        if not options.resume and self.measured is not None:
            evaluating = self.evaluations * self.evaluation_seconds
            if evaluating > self.training_seconds:
                found.append(
                    f"evaluations take {duration(evaluating)} and training {duration(self.training_seconds)}: fewer"
                    f" by --eval-steps N (now {options.eval_steps:,}), shorter ones by --held-out SHARE (now"
                    f" {options.held_out:g})."
                )
        if self.measured is not None and self.measured.peak_bytes > 0.9 * self.measured.total_bytes:
            found.append("memory is nearly full; halve --batch-size and double --gradient-accumulation.")
        return found


def _near(length: float) -> int:
    """The power of two above a mean row, for a remedy."""
    return max(16, 2 ** int(length).bit_length())


def _steps(number: int) -> str:
    return f"{number:,} step{'s' * (number != 1)}"


def _bytes(count: float) -> str:
    return f"{count / 1e9:,.1f} GB"
