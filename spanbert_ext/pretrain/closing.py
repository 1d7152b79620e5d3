"""The end of a run: held-out losses, metrics.json, the picture, and a table of masked spans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.pretrain.checkpoints import METRICS_FILE, PLOT_FILE
from spanbert_ext.pretrain.options import Options
from spanbert_ext.pretrain.report import (
    build_metrics,
    plot_losses,
    span_table,
    summary,
    write_metrics,
)
from spanbert_ext.pretrain.trainer import SpanTrainer


def close_run(
    trainer: SpanTrainer,
    collator: DataCollatorForSpanMasking,
    options: Options,
    facts: dict[str, Any],
    counts: np.ndarray,
) -> dict[str, Any]:
    """Writes metrics.json and losses.png of a run that is trained, prints what it learned, returns the metrics.

    counts: [V] training tokens by id. facts: what else metrics.json holds."""
    folder = Path(options.output).expanduser()
    model, tokenizer, held_out = trainer.model, trainer.processing_class, trainer.eval_dataset
    history = trainer.state.log_history
    evaluations = [log for log in history if "eval_mlm_loss" in log and log["step"] == options.max_steps]
    evaluation = evaluations[-1] if evaluations else trainer.evaluate()
    held_out_counts = held_out.unigram_counts(len(tokenizer))
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
