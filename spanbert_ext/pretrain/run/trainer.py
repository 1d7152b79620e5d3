# SPDX-License-Identifier: Apache-2.0
"""The Trainer of a run: losses and accuracies of all heads, speed, memory, and held-out text under both mask laws."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, ProgressCallback, Trainer
from transformers.trainer_callback import PrinterCallback

from spanbert_ext.files.run_files import HISTORY_FILE, SAMPLES_FILE, write_json
from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.pretrain.rows.loader import ScheduledLoader
from spanbert_ext.pretrain.run.bad_loss import GuardedUpdates
from spanbert_ext.pretrain.run.console import BarLog, LineLog
from spanbert_ext.pretrain.run.mask_laws import held_out_metrics, length_statistics, shared_law_collators
from spanbert_ext.pretrain.run.model_flops import count_flops, peak_flops
from spanbert_ext.pretrain.run.optimizer import RunOptimizer
from spanbert_ext.pretrain.run.run_progress import PAIRS, TOKENS, RunProgress, head_means, peak_memory_gb
from spanbert_ext.pretrain.run.saving import SavesAsAsked, VerifiedSaving
from spanbert_ext.pretrain.run.sharding import ShardedModel
from spanbert_ext.pretrain.run.span_examples import span_examples
from spanbert_ext.pretrain.settings.options import Options

BOUNDARIES = ("left_boundary", "right_boundary")


class SpanTrainer(VerifiedSaving, GuardedUpdates, ScheduledLoader, ShardedModel, RunOptimizer, Trainer):
    """Logs, beside what Trainer does, each head's loss and accuracy by token, the tokens read, passes over the text,
    tokens and FLOPs a second, the share of the peak where that is known, and memory.

    `loss` in a log is the sum of the heads' means, as the model weighs them, over all steps since the last log, and NaN
    where each of them was skipped. An evaluation judges the held-out rows under the run's own masking (`eval_*`) and
    under the shared ones (`eval_spans_*`, `eval_tokens_*`), and the first process writes history.json and samples.json.

    options: resolved ones. folder: of the run. `data_collator` must be a `DataCollatorForSpanMasking`;
    `compute_metrics` is this class's own."""

    def __init__(self, *args: Any, options: Options, folder: Path, **kwargs: Any) -> None:
        kwargs["compute_metrics"] = held_out_metrics
        super().__init__(*args, **kwargs)
        self.options, self.folder = options, folder
        if not isinstance(self.data_collator, DataCollatorForSpanMasking):
            raise TypeError(
                f"data_collator is a {type(self.data_collator).__name__}; expected a DataCollatorForSpanMasking"
            )
        if not options.sbo:  # it gets no gradient, which DistributedDataParallel would wait for
            self.model.sbo.requires_grad_(False)
        self.progress = RunProgress()
        self.add_callback(self.progress)
        self.add_callback(SavesAsAsked())
        for callback in (ProgressCallback, PrinterCallback):
            self.remove_callback(callback)
        self.add_callback(LineLog() if self.args.disable_tqdm else BarLog())
        self._own_collator = self.data_collator
        self._shared = shared_law_collators(self.processing_class, self.data_collator, options.masking)
        self._flops = count_flops(self.model)
        self._peak = peak_flops(self.args.device, self.args.bf16)

    # --- A step ------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        attention_mask = inputs["attention_mask"]
        if not self.options.sbo:
            inputs = {name: value for name, value in inputs.items() if name not in BOUNDARIES}
        if not model.training:
            inputs = {**inputs, "return_logits": False}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self.progress.add(outputs["row_statistics"], outputs.get("nsp_statistics"), attention_mask)
        elif return_outputs:  # every entry but the loss is gathered, and in this order
            names = ("row_statistics", "nsp_statistics")
            kept = {name: outputs[name] for name in names if outputs.get(name) is not None}
            outputs = {"loss": loss, **kept, "length_statistics": length_statistics(outputs, inputs)}
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:  # a training log, not an evaluation's
            self._add_training_log(logs)
        elif (
            "train_loss" in logs
        ):  # the summary at the end: of the steps since a resume, and of no step after the last
            self.progress.take(self.accelerator)  # steps that were not logged
            return
        super().log(logs, start_time)

    def _add_training_log(self, logs: dict[str, float]) -> None:
        sums, seconds = self.progress.take(self.accelerator)
        means = head_means(sums)
        weights = {"mlm": 1.0, "sbo": self.model.config.span_pretraining["sbo_weight"], "nsp": 1.0}
        losses = [
            weight * means[f"{head}_loss"] for head, weight in weights.items() if f"{head}_loss" in means
        ]
        logs["loss"] = sum(losses) if losses else math.nan  # every update since the last log was skipped
        logs |= means
        logs["tokens_seen"] = int(self.tokens_seen)
        logs["passes"] = self.passes
        logs |= self._speed(sums, seconds)
        logs["memory_gb"] = peak_memory_gb(self.args.device)

    def _speed(self, sums: Tensor, seconds: float) -> dict[str, float]:
        """sums: [11] of all ranks, in so many seconds."""
        speed = {"tokens_per_second": sums[TOKENS].item() / seconds}
        if self._flops is not None:
            tokens, pairs = sums[[TOKENS, PAIRS]].tolist()
            flops = self._flops.training(tokens, pairs, sums[1].item(), sums[4].item()) / seconds
            speed["tflop_per_second"] = flops / 1e12
            if self._peak is not None:
                speed["mfu"] = flops / (self._peak * self.args.world_size)
        return speed

    @property
    def passes(self) -> float:
        """How often training has read the text."""
        epochs = self.train_dataset.schedule.epoch(self.state.global_step)
        return epochs * self.options.pair_passes

    @property
    def tokens_seen(self) -> float:
        """Tokens that training has read up to the last log, special ones included, those before a resume too."""
        return self.progress.totals[TOKENS].item()

    def speed_facts(self) -> dict[str, float]:
        """Of the whole run, for metrics.json; nothing when no step was taken."""
        totals, seconds = self.progress.totals, self.progress.seconds
        if not self.tokens_seen:
            return {}
        facts = {"tokens_seen": int(self.tokens_seen), "train_seconds": seconds}
        return facts | self._speed(totals, seconds) | {"memory_gb": peak_memory_gb(self.args.device)}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.progress.paused():
            self.progress.gather(self.accelerator)  # the first rank saves the sums of all
            super()._save_checkpoint(model, trial)

    # --- An evaluation -----------------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The entries of all laws. Those of the run's own come first, and are what Trainer's `evaluate` gives."""
        with self.progress.paused():
            metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
            for law, collator in self._shared.items():
                self.data_collator = collator
                try:
                    metrics |= super().evaluate(eval_dataset, ignore_keys, f"{metric_key_prefix}_{law}")
                finally:
                    self.data_collator = self._own_collator
            examples = self.examples()
            if self.is_world_process_zero():
                write_json(self.state.log_history, self.folder / HISTORY_FILE)
                write_json({"step": self.state.global_step, "examples": examples}, self.folder / SAMPLES_FILE)
        return metrics

    def examples(self) -> list[dict[str, Any]]:
        """`span_examples` of rows from all over the held-out text, with spans masked: the same for all runs on a text
        under one seed. Twice as many rows, because some have no span with two neighbours."""
        rows, samples = self.eval_dataset, self.options.samples
        if not samples:
            return []
        spread = np.linspace(0, len(rows) - 1, min(len(rows), 2 * samples)).astype(int)
        order = np.random.default_rng(self.options.seed).permutation(spread)
        collator = self._shared.get("spans", self._own_collator.evaluation())
        found: list[dict[str, Any]] = []
        for first in range(0, len(order), self.args.eval_batch_size):
            chosen = order[first : first + self.args.eval_batch_size]
            batch = collator([rows[int(i)] for i in chosen])
            with torch.no_grad(), self.compute_loss_context_manager():
                found += span_examples(
                    self.model, self.processing_class, batch, samples - len(found), self.options.sbo
                )
            if len(found) == samples:
                break
        return found
