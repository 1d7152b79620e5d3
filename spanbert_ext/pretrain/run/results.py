# SPDX-License-Identifier: Apache-2.0
"""What a run learned: metrics.json, the picture of both heads' losses, and a summary for people."""

from __future__ import annotations

import dataclasses
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spanbert_ext.pretrain.run.evaluations import SHARED_LAWS, by_law, evaluations

HEADS = ("mlm", "sbo", "nsp")


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
    history: list[dict[str, Any]],
    held_out: np.ndarray,
    train: np.ndarray,
    options: Any,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """The content of metrics.json; losses and entropies in nats per token, over the held-out documents.

    history: Trainer's `log_history`, whose last evaluation counts. held_out, train: [V] token counts of
    `Rows.unigram_counts`. `eval_*` are of the run's own masking, `held_out` has all laws, `held_out_at_start` those
    before the first step, where it was evaluated.
    """
    threads = torch.get_num_threads()
    found = evaluations(history)
    last = found[max(found)]
    packages = ("spanbert_ext", "torch", "transformers", "tokenizers", "datasets", "numpy")
    shared = tuple(f"eval_{law}_" for law in SHARED_LAWS)
    own = {
        name: value
        for name, value in sorted(last.items())  # a resumed run reads its history sorted
        if name.startswith(tuple(f"eval_{head}_" for head in HEADS)) and not name.startswith(shared)
    }
    return {
        "unigram_entropy": unigram_entropy(held_out),
        "unigram_cross_entropy": unigram_cross_entropy(held_out, train),
        **{name: value for name, value in own.items() if "_length_" not in name},
        "held_out": by_law(last, options.masking),
        **({"held_out_at_start": by_law(found[0], options.masking)} if 0 in found else {}),
        "held_out_tokens": int(held_out.sum()),
        "train_tokens": int(train.sum()),
        **facts,
        "seed": options.seed,
        "options": dataclasses.asdict(options),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        "machine": f"{platform.system()} {platform.machine()}, {threads} thread{'s' * (threads > 1)}",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except ImportError:  # run from a source tree
        return "not installed"


def plot_losses(history: list[dict[str, float]], entropy: float, path: Path) -> None:
    """Writes a PNG: training and held-out loss of the MLM and the SBO by step, against the held-out text's unigram
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


def summary(metrics: dict[str, Any]) -> str:
    """The figures to look at, for people: each head's loss beside the unigram entropy."""
    entropy, masking = metrics["unigram_entropy"], metrics["options"]["masking"]
    own = metrics["held_out"].get(masking, {})
    lines = [f"Held-out text ({metrics['held_out_tokens']:,} tokens), loss of masked tokens in nats:"]
    lines.append(f"  unigram entropy   {entropy:6.3f}   (the best that can be done without context)")
    for head in ("mlm", "sbo"):
        if f"{head}_loss" in own:
            loss, accuracy = own[f"{head}_loss"], own[f"{head}_accuracy"]
            side = "below" if loss < entropy else "ABOVE"
            lines.append(
                f"  {head.upper()} head          {loss:6.3f}   {abs(loss - entropy):.3f} {side} the entropy;"
                f" {accuracy:.1%} of tokens right"
            )
    if "nsp_accuracy" in own:
        majority = (
            f" (always the more frequent answer: {own['nsp_majority_rate']:.1%})"
            if "nsp_majority_rate" in own
            else ""
        )
        lines.append(
            f"  NSP head          {own['nsp_loss']:6.3f}   {own['nsp_accuracy']:.1%} of pairs right{majority}"
        )
    for law in SHARED_LAWS:
        if law != masking and "mlm_loss" in metrics["held_out"].get(law, {}):
            other = metrics["held_out"][law]
            lines.append(
                f"  MLM head, {law:<8}{other['mlm_loss']:6.3f}   {other['mlm_accuracy']:.1%} right with {law} masked"
            )
    if "tokens_per_second" in metrics:
        lines.append(f"Trained on {metrics['tokens_per_second']:,.0f} tokens a second.")
    return "\n".join(lines)
