"""What a run learned: metrics.json, the picture of both heads' losses, and a table of filled-in spans."""

from __future__ import annotations

import dataclasses
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

CELL = 26  # characters of a table's column


def unigram_entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the text's own token frequencies, `-sum p ln p`: no predictor without context, not
    even one fitted to this very text, has a lower expected loss on it."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def unigram_cross_entropy(counts: np.ndarray, train_counts: np.ndarray) -> float:
    """Mean loss in nats, on the text of `counts`, of training frequencies with one added to each."""
    q = (train_counts + 1) / (train_counts + 1).sum()
    return float(-(counts * np.log(q)).sum() / counts.sum())


def build_metrics(
    evaluation: dict[str, float], held_out: np.ndarray, train: np.ndarray, options: Any, facts: dict[str, Any]
) -> dict[str, Any]:
    """The content of metrics.json; losses and entropies in nats per token, over the held-out documents.

    held_out, train: [V] token counts of `Rows.unigram_counts`.
    """
    names = ("mlm_loss", "sbo_loss", "mlm_accuracy", "sbo_accuracy", "mlm_count", "sbo_count")
    packages = ("spanbert_ext", "torch", "transformers", "tokenizers", "datasets", "numpy")
    return {
        "unigram_entropy": unigram_entropy(held_out),
        "unigram_cross_entropy": unigram_cross_entropy(held_out, train),
        **{f"eval_{name}": evaluation[f"eval_{name}"] for name in names if f"eval_{name}" in evaluation},
        "held_out_tokens": int(held_out.sum()),
        "train_tokens": int(train.sum()),
        **facts,
        "seed": options.seed,
        "options": dataclasses.asdict(options),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:  # run from a source tree
        return "not installed"


def plot_losses(history: list[dict[str, float]], entropy: float, path: Path) -> None:
    """Writes a PNG: each head's training and held-out loss by step, against the held-out text's unigram
    entropy.

    history: Trainer's `log_history`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no display and no global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for head, colour in (("mlm", "tab:blue"), ("sbo", "tab:orange")):
        for prefix, style in (
            ("", {"alpha": 0.45, "linewidth": 1.2}),
            ("eval_", {"marker": "o", "markersize": 4}),
        ):
            points = [
                (log["step"], log[f"{prefix}{head}_loss"]) for log in history if f"{prefix}{head}_loss" in log
            ]
            if points:
                label = f"{head.upper()}, {'held-out documents' if prefix else 'training'}"
                axes.plot(*zip(*points, strict=True), color=colour, label=label, **style)
    axes.axhline(entropy, color="black", linestyle="--", linewidth=1, label=f"unigram entropy, {entropy:.2f}")
    axes.set(xlabel="step", ylabel="loss of masked tokens (nats)", title="SpanBERT pre-training")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)


def _clip(text: str, left: bool = False) -> str:
    text = " ".join(text.split())
    if len(text) > CELL:
        text = "…" + text[1 - CELL :] if left else text[: CELL - 1] + "…"
    return text.rjust(CELL) if left else text.ljust(CELL)


def _runs(positions: list[int]) -> list[list[int]]:
    """Entries of each maximal run of consecutive positions; `positions` ascend and are padded with -1."""
    runs: list[list[int]] = []
    for entry, position in enumerate(positions):
        if position < 0:
            break
        if runs and positions[runs[-1][-1]] == position - 1:
            runs[-1].append(entry)
        else:
            runs.append([entry])
    return runs


@torch.no_grad()
def span_table(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: dict[str, Any],
    samples: int,
    sbo: bool = True,
) -> str:
    """One masked span a row of `batch` (from the collator), at most `samples`: the text around it, what stood
    there, and what each head fills in. With `sbo` the first span that the SBO predicts too, else that column
    is empty."""
    moved = {name: x.to(model.device) if isinstance(x, Tensor) else x for name, x in batch.items()}
    outputs = model.eval()(**moved, return_logits=False)
    original = torch.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"])  # [B, L]
    titles = ("text before", "masked span", "MLM head", "SBO head", "text after")
    lines = [" | ".join(map(_clip, titles)).rstrip(), "-+-".join(["-" * CELL] * 5)]
    for row, positions in enumerate(batch["masked_positions"].tolist()):
        runs = [run for run in _runs(positions) if not sbo or batch["left_boundary"][row, run[0]] >= 0]
        if not runs or len(lines) == samples + 2:
            continue
        run = runs[0]
        first, last = positions[run[0]], positions[run[-1]]
        end = int(batch["attention_mask"][row].sum()) - 1  # of [SEP]
        sbo_ids = outputs["sbo_prediction"][row, run].tolist() if sbo else []
        cells = (
            tokenizer.decode(original[row, 1:first].tolist()),
            tokenizer.decode(original[row, first : last + 1].tolist()),
            tokenizer.decode(outputs["mlm_prediction"][row, run].tolist()),
            tokenizer.decode([i for i in sbo_ids if i >= 0]),  # none past the last position slot
            tokenizer.decode(original[row, last + 1 : end].tolist()),
        )
        lines.append(" | ".join((_clip(cells[0], left=True), *map(_clip, cells[1:]))).rstrip())
    return "\n".join(lines)


def summary(metrics: dict[str, Any]) -> str:
    """The figures to look at, for people: each head's loss beside the unigram entropy."""
    entropy = metrics["unigram_entropy"]
    lines = [f"Held-out text ({metrics['held_out_tokens']:,} tokens), loss of masked tokens in nats:"]
    lines.append(f"  unigram entropy   {entropy:6.3f}   (the best that can be done without context)")
    for head in ("mlm", "sbo"):
        if f"eval_{head}_loss" in metrics:
            loss, accuracy = metrics[f"eval_{head}_loss"], metrics[f"eval_{head}_accuracy"]
            side = "below" if loss < entropy else "ABOVE"
            lines.append(
                f"  {head.upper()} head          {loss:6.3f}   {abs(loss - entropy):.3f} {side} the entropy;"
                f" {accuracy:.1%} of tokens right"
            )
    if "tokens_per_second" in metrics:
        lines.append(f"Trained on {metrics['tokens_per_second']:,.0f} tokens a second.")
    return "\n".join(lines)


def write_metrics(metrics: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(metrics, indent=2) + "\n")
