# SPDX-License-Identifier: Apache-2.0
"""Rows that are pairs of texts: [CLS] A [SEP] B [SEP] with what is known of B."""

from __future__ import annotations

import random

import torch
from tiny_models import NOUNS, VERBS, tiny_config, tiny_tokenizer

from spanbert_ext import DataCollatorForSpanMasking, SpanBertForPreTraining


def pair_rows(
    count: int, seed: int = 0, words: tuple[int, int] = (1, 6), column: str = "is_random_next"
) -> list:
    """B continues A when both are of animals that see; a row in seven has no target."""
    draw, tokenizer = random.Random(seed), tiny_tokenizer()
    rows = []
    for index in range(count):
        random_next = draw.randrange(3) > 0  # two of three
        verbs = VERBS[:2] if not random_next else VERBS[2:]
        first, second = (
            " ".join(f"the {draw.choice(NOUNS)} {verb}ed" for _ in range(draw.randint(*words)))
            for verb in (VERBS[0], draw.choice(verbs))
        )
        rows.append(dict(tokenizer(first, second)) | {column: -100 if index % 7 == 6 else int(random_next)})
    return rows


def pair_batch(count: int = 8, seed: int = 0, **options) -> dict:
    return DataCollatorForSpanMasking(tiny_tokenizer(), epoch=seed, **options)(pair_rows(count, seed))


def pair_model(seed: int = 0, **options) -> SpanBertForPreTraining:
    """With weights so wide that it answers differently from row to row."""
    torch.manual_seed(seed)
    return SpanBertForPreTraining(tiny_config(initializer_range=0.3), position_dim=24, nsp=True, **options)
