# SPDX-License-Identifier: Apache-2.0
"""Folders of runs as spanbert-pretrain leaves them, written by hand: reports read JSON and train nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def log_history(steps: int, seed: int = 0, nsp: bool = False) -> list[dict[str, Any]]:
    """Logs every 10 steps, evaluations at step 0 and every 50."""
    history: list[dict[str, Any]] = [evaluation(0, seed, nsp), shared_evaluation(0, seed)]
    for step in range(10, steps + 1, 10):
        loss = 4 + 3 * math.exp(-step / 80) + 0.05 * math.sin(step + seed)
        history.append(
            {
                "step": step,
                "loss": 2 * loss,
                "mlm_loss": loss,
                "mlm_accuracy": 1 / loss,
                "sbo_loss": loss + 0.1,
                "sbo_accuracy": 0.9 / loss,
                "grad_norm": 2.0 if step != 30 else None,
                "learning_rate": 1e-3 * (1 - step / (steps + 10)),
                "tokens_seen": 500 * step,
                "tokens_per_second": 12_000.0 + seed,
                "tflop_per_second": 1.5,
                "memory_gb": 0.5,
                **({"nsp_loss": 0.6, "nsp_accuracy": 0.7} if nsp else {}),
            }
        )
        if step % 50 == 0:
            history += [evaluation(step, seed, nsp), shared_evaluation(step, seed)]
    return history


def evaluation(step: int, seed: int, nsp: bool) -> dict[str, Any]:
    accuracy = min(0.9, 0.1 + step / 1000 + seed / 100)
    return {
        "step": step,
        "eval_loss": 5.0,
        "eval_mlm_loss": 7 - step / 100,
        "eval_sbo_loss": 7.1 - step / 100,
        "eval_mlm_accuracy": accuracy,
        "eval_sbo_accuracy": accuracy / 2,
        "eval_count_length_1": 40,
        "eval_mlm_accuracy_length_1": accuracy,
        "eval_sbo_accuracy_length_1": accuracy / 2,
        "eval_count_length_13+": 13,
        "eval_mlm_accuracy_length_13+": accuracy / 3,
        **({"eval_nsp_loss": 0.6, "eval_nsp_accuracy": 0.75} if nsp else {}),
    }


def shared_evaluation(step: int, seed: int) -> dict[str, Any]:
    return {"step": step, "eval_tokens_mlm_loss": 6.0, "eval_tokens_mlm_accuracy": 0.2 + seed / 100}


def write_run(
    folder: Path, *, steps: int = 100, finished: bool = True, nsp: bool = False, **options: Any
) -> Path:
    """A run's folder: run.json, history.json and samples.json, and metrics.json where it is finished."""
    folder.mkdir(parents=True)
    seed = options.setdefault("seed", 0)
    options = {
        "model": "demo",
        "masking": "spans",
        "max_steps": 100,
        "output": str(folder),
        "corpus": [],
        **options,
    }
    (folder / "run.json").write_text(json.dumps({"options": options, "corpus_digest": "ab"}))
    (folder / "history.json").write_text(json.dumps(log_history(steps, seed, nsp)))
    example = {"before": "Those who", "span": "build large", "after": "machines know.", "tokens": 2}
    example |= {"mlm": "build big", "mlm_right": 1, "sbo": "build large", "sbo_right": 2}
    (folder / "samples.json").write_text(json.dumps({"step": steps, "examples": [example]}))
    if finished:
        metrics = {
            "unigram_entropy": 6.2,
            "tokens_seen": 50_000,
            "train_seconds": 4_000,
            "memory_gb": 0.5 + seed,
        }
        metrics |= {"tokens_per_second": 12_345.6 + seed, "train_tokens": 90_000, "held_out_tokens": 10_000}
        metrics |= {"documents": 12, "corpus": ["text.txt"], "machine": "Linux", "options": options}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder
