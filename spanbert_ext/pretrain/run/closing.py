# SPDX-License-Identifier: Apache-2.0
"""The end of a run: held-out losses, metrics.json, the picture, and a table of masked spans."""

from __future__ import annotations

from typing import Any

import numpy as np

from spanbert_ext.files.paths import given_path
from spanbert_ext.files.run_files import HISTORY_FILE, SAMPLES_FILE, write_json
from spanbert_ext.pretrain.run.checkpoints import METRICS_FILE, PLOT_FILE
from spanbert_ext.pretrain.run.evaluations import evaluations
from spanbert_ext.pretrain.run.results import build_metrics, plot_losses, summary
from spanbert_ext.pretrain.run.span_examples import span_table
from spanbert_ext.pretrain.run.trainer import SpanTrainer
from spanbert_ext.pretrain.settings.options import Options


def close_run(
    trainer: SpanTrainer, options: Options, facts: dict[str, Any], counts: np.ndarray
) -> dict[str, Any]:
    """Writes metrics.json, history.json, samples.json and losses.png of a run that is trained, prints what it learned,
    returns the metrics. Every process calls it; the first one writes and prints.

    counts: [V] training tokens by id. facts: what else metrics.json holds."""
    folder = given_path(options.output)
    if trainer.state.global_step not in evaluations(trainer.state.log_history):
        trainer.evaluate()
    examples = trainer.examples()
    history = trainer.state.log_history
    held_out_counts = trainer.eval_dataset.unigram_counts(len(trainer.processing_class))
    metrics = build_metrics(history, held_out_counts, counts, options, facts)
    if not trainer.is_world_process_zero():
        return metrics
    write_json(metrics, folder / METRICS_FILE)
    write_json(history, folder / HISTORY_FILE)
    write_json({"step": trainer.state.global_step, "examples": examples}, folder / SAMPLES_FILE)
    plot_losses(history, metrics["unigram_entropy"], folder / PLOT_FILE)
    if examples:
        print(f"\nMasked spans of held-out text:\n{span_table(examples)}")
    print("\n" + summary(metrics) + f"\n\nCheckpoint, {METRICS_FILE}, {PLOT_FILE}: {folder}")
    return metrics
