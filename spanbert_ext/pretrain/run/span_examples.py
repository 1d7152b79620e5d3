# SPDX-License-Identifier: Apache-2.0
"""Masked spans of held-out text with what each head fills in, for the table at the end, samples.json and reports."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

CELL = 26  # characters of a table's column
CONTEXT = 160  # characters of an example's text on each side of its span
_TITLES = {
    "before": "text before",
    "span": "masked span",
    "mlm": "MLM head",
    "sbo": "SBO head",
    "after": "text after",
}


@torch.no_grad()
def span_examples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: dict[str, Any],
    samples: int,
    sbo: bool = True,
) -> list[dict[str, Any]]:
    """One masked span a row of `batch` (from the collator), at most `samples`: the first one with two neighbours.

    Each has the texts `before` and `after`, `span` (what stood there), `mlm` and `sbo` (what each head fills in), and
    `mlm_right`, `sbo_right`: how many of the `tokens` are. Without `sbo` its entries are empty. The model is left in
    the mode that it was in."""
    moved = {name: x.to(model.device) if isinstance(x, Tensor) else x for name, x in batch.items()}
    training = model.training
    outputs = model.eval()(**moved, return_logits=False)
    model.train(training)
    original = torch.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"])  # [B, L]
    special = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id}
    examples: list[dict[str, Any]] = []
    for row, positions in enumerate(batch["masked_positions"].tolist()):
        runs = [run for run in _runs(positions) if batch["left_boundary"][row, run[0]] >= 0]
        if not runs or len(examples) == samples:
            continue
        run = runs[0]
        first, last = positions[run[0]], positions[run[-1]]
        ids = original[row].tolist()
        begin, end = first, last + 1  # of the text around it, up to the next special token
        while begin > 0 and ids[begin - 1] not in special:
            begin -= 1
        while end < len(ids) and ids[end] not in special:
            end += 1
        targets = ids[first : last + 1]
        filled = {"mlm": outputs["mlm_prediction"][row, run].tolist()}
        filled["sbo"] = outputs["sbo_prediction"][row, run].tolist() if sbo else []
        example: dict[str, Any] = {
            "before": _shorten(tokenizer.decode(ids[begin:first]), left=True),
            "span": tokenizer.decode(targets),
            "after": _shorten(tokenizer.decode(ids[last + 1 : end])),
            "tokens": len(targets),
        }
        for head, guesses in filled.items():
            example[head] = tokenizer.decode([i for i in guesses if i >= 0])  # none past the last slot
            example[f"{head}_right"] = sum(guess == id for guess, id in zip(guesses, targets, strict=False))
        examples.append(example)
    return examples


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


def _shorten(text: str, left: bool = False) -> str:
    text = " ".join(text.split())
    if len(text) > CONTEXT:
        text = "…" + text[1 - CONTEXT :] if left else text[: CONTEXT - 1] + "…"
    return text


def span_table(examples: list[dict[str, Any]]) -> str:
    """The examples of `span_examples` as lines of a table."""
    lines = [" | ".join(map(_clip, _TITLES.values())).rstrip(), "-+-".join(["-" * CELL] * len(_TITLES))]
    for example in examples:
        cells = [_clip(example[name], left=name == "before") for name in _TITLES]
        lines.append(" | ".join(cells).rstrip())
    return "\n".join(lines)


def _clip(text: str, left: bool = False) -> str:
    text = " ".join(text.split())
    if len(text) > CELL:
        text = "…" + text[1 - CELL :] if left else text[: CELL - 1] + "…"
    return text.rjust(CELL) if left else text.ljust(CELL)
