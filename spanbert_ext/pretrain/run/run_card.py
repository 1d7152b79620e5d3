# SPDX-License-Identifier: Apache-2.0
"""The model card of a run's folder: what it read, how it trained, its held-out losses and how they were measured."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spanbert_ext.models.model_card import card_text, check_facts, write_card
from spanbert_ext.pretrain.settings.options import Options
from spanbert_ext.pretrain.text.corpus_names import DATASET, shown

_HEADS = {"mlm": "MLM", "sbo": "SBO", "nsp": "NSP"}


def write_run_card(folder: Path, model: Any, options: Options, metrics: Mapping[str, Any]) -> bool:
    """Into the folder of a trained run; False where its card is another's. metrics: of metrics.json."""
    facts = {
        "corpus": _corpus(options, metrics),
        "training": _training(options, metrics),
        "metrics": _metrics(options, metrics),
    }
    return write_card(folder, card_text(model, folder.absolute().name, check_facts(facts)))


def _corpus(options: Options, metrics: Mapping[str, Any]) -> list[str]:
    """The last part of a path: a card is published, and where the text lay on a machine is nobody's concern."""
    if not options.corpus:
        return list(metrics["corpus"])
    return [_published_name(name) for name in options.corpus]


def _published_name(name: str) -> str:
    path = name.removeprefix(DATASET)
    is_path = not name.startswith(DATASET) or os.path.isabs(path)
    return shown(f"{name[: len(name) - len(path)]}{Path(path).name}" if is_path else name)


def _training(options: Options, metrics: Mapping[str, Any]) -> str:
    objectives = ["masked tokens", *["spans from their boundaries"] * bool(options.sbo)]
    objectives += ["next sentences"] * bool(options.nsp)
    begun = "random weights" if options.starts_fresh else f"`{_published_name(options.model)}`"
    lines = {
        "objectives": ", ".join(objectives),
        "masked": f"{options.masking}, {options.ratio:.0%} of the tokens of a row",
        "rows": f"{options.rows}, at most {options.block_size:,} tokens",
        "begun with": begun,
        "steps": f"{metrics['steps']:,}",
        "text": f"{metrics['train_tokens']:,} tokens; {metrics['documents']:,} documents, with those held out",
        "learning rate": f"{options.learning_rate:g}, linear to 0 (warm-up steps: {options.warmup_steps:,})",
        "precision": "bfloat16" if options.bf16 else "float32",
        "seed": f"{options.seed}",
    }
    if options.recipe is not None:
        lines = {"recipe": f"`{options.recipe}`"} | lines
    return "\n".join(f"* {name}: {value}" for name, value in lines.items())


def _metrics(options: Options, metrics: Mapping[str, Any]) -> str:
    start = metrics.get("held_out_at_start", {})
    rows = []
    for law, found in metrics["held_out"].items():
        for head, title in _HEADS.items():
            if f"{head}_loss" not in found:
                continue
            before = start.get(law, {}).get(f"{head}_loss")
            cells = (
                f"{title}, {law} masked" if head != "nsp" else title,
                "" if before is None else f"{before:.3f}",
                f"{found[f'{head}_loss']:.3f}",
                f"{found[f'{head}_accuracy']:.1%}",
            )
            rows.append("| " + " | ".join(cells) + " |")
    unit = metrics.get("held_out_unit", "documents")
    return (
        "| head | loss before | loss | right |\n| --- | --- | --- | --- |\n"
        + "\n".join(dict.fromkeys(rows))
        + f"\n\nMeasured at the end on {metrics['held_out_tokens']:,} tokens of {unit} of the same text that were not"
        f" trained on: {options.ratio:.0%} of the tokens masked, the same ones in every evaluation, without dropout."
        " Losses are means over masked tokens, in nats; *right* is how many of them the most probable token meets. The"
        " best that can be done without context, the entropy of that text's own token frequencies, is"
        f" {metrics['unigram_entropy']:.3f} nats."
    )
