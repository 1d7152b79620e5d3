# SPDX-License-Identifier: Apache-2.0
"""States of a frozen encoder at the places that items read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedTokenizerBase

from spanbert_ext.evaluate.tasks.fine_tuning import TRAINING_SHARE, collate_tokens, predict
from spanbert_ext.evaluate.tasks.form import Checkpoint, Conditions, EvaluationError
from spanbert_ext.evaluate.tasks.loading import load_model, load_tokenizer, longest_row
from spanbert_ext.evaluate.tasks.probe.items import Item
from spanbert_ext.evaluate.tasks.probe.options import ProbeOptions
from spanbert_ext.evaluate.tasks.spans import kept_tokens, token_span


class _Layer(nn.Module):
    """A checkpoint's encoder up to the states of one of its layers."""

    def __init__(self, checkpoint: Checkpoint, layer: int) -> None:
        super().__init__()
        self.folder, self.layer = checkpoint.folder, layer
        self.encoder = load_model(AutoModel, checkpoint, seed=0)

    def forward(self, **row: Tensor) -> Tensor:
        states = self.encoder(**row, output_hidden_states=True).hidden_states
        if not -len(states) <= self.layer < len(states):
            raise EvaluationError(
                f"--layer is {self.layer}, but the encoder in {self.folder} has the layers 1 to {len(states) - 1}, and"
                " 0, its embeddings"
            )
        return states[self.layer]


@torch.inference_mode()
def check_layer(checkpoint: Checkpoint, layer: int) -> None:
    """Has the encoder read a row without a text. Raises `EvaluationError` where it cannot be loaded, or has no such
    layer."""
    tokenizer = load_tokenizer(checkpoint)
    row = {"input_ids": [tokenizer.cls_token_id, tokenizer.sep_token_id]}
    _Layer(checkpoint, layer).eval()(
        **collate_tokens([row], tokenizer.pad_token_id, longest=len(row["input_ids"]))
    )


def read_states(
    checkpoint: Checkpoint, items: Sequence[Item], options: ProbeOptions, conditions: Conditions
) -> tuple[Tensor, int]:
    """States [N, R, H] (float32, on the device) of the tokens that N items read, R each, and how many of these no row
    had: characters without a token, and tokens for which an encoder with few positions left no room. They read zeros.

    Every text is encoded once."""
    tokenizer = load_tokenizer(checkpoint)
    longest = longest_row(checkpoint, options.max_length)
    of_text: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        of_text.setdefault(item.text, []).append(number)
    rows = _rows(list(of_text), [[items[n] for n in own] for own in of_text.values()], tokenizer, longest)
    places = list(of_text.values())
    states: Tensor | None = None
    missing = 0
    own = replace(conditions, progress=lambda share: conditions.progress(_of_predictions(share)))
    collate = partial(collate_tokens, pad_token_id=tokenizer.pad_token_id, longest=longest)
    model = _Layer(checkpoint, options.layer)
    for indices, _, found in predict(model, rows, collate, own):
        if states is None:
            states = found.new_zeros(len(items), len(items[0].reads), found.shape[-1], dtype=torch.float32)
        for place, index in enumerate(indices):
            at = torch.tensor(rows[index]["reads"])  # [items of the text, R]
            absent = at < 0
            missing += int(absent.sum())
            read = found[place, at.clamp(min=0).to(found.device)].float()
            read[absent.to(found.device)] = 0.0
            states[places[index]] = read
    assert states is not None
    return states, missing


def _of_predictions(share: float) -> float:
    """`predict` says how much of a whole job is done."""
    return max(0.0, (share - TRAINING_SHARE) / (1 - TRAINING_SHARE))


def _rows(
    texts: Sequence[str],
    items: Sequence[Sequence[Item]],
    tokenizer: PreTrainedTokenizerBase,
    longest: int,
) -> list[dict[str, Any]]:
    """A row for each text: `input_ids` and `reads`, the place of every read of each of its items, -1 of none."""
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    rows = []
    for own, ids, offsets in zip(items, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        offsets = np.asarray(offsets).reshape(-1, 2)
        token: dict[int, int] = {}
        for character in {character for item in own for character in item.reads}:
            if span := token_span(offsets, character, character + 1):
                token[character] = span[0]
        kept = kept_tokens(len(ids), sorted(token.values()), longest - 2)
        place = {int(old): new + 1 for new, old in enumerate(kept)}
        reads = [[place.get(token.get(character, -1), -1) for character in item.reads] for item in own]
        tokens = [tokenizer.cls_token_id, *(ids[old] for old in kept), tokenizer.sep_token_id]
        rows.append({"input_ids": tokens, "reads": reads})
    return rows
