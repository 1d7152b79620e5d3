# SPDX-License-Identifier: Apache-2.0
"""Documents as segments of tokens, and their words and clusters in these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from spanbert_ext.evaluate.data.conll import CorefDocument
from spanbert_ext.evaluate.data.tokens import join_tokens
from spanbert_ext.evaluate.tasks.fine_tuning import collate_tokens
from spanbert_ext.evaluate.tasks.passages import breaks_of, cut
from spanbert_ext.evaluate.tasks.spans import word_tokens

Row = dict[str, Any]


def encode_document(document: CorefDocument, tokenizer: PreTrainedTokenizerBase, longest: int) -> Row | None:
    """A document as a row of `fine_tune`; None where none of its words has a token.

    `segments`: ids of each segment, of at most `longest`, which ends with a sentence where one fits. `words`: for every
    word that has tokens its number in the document; `tokens` [W, 3]: its segment, and its first and last token there.
    `gold` [M, 3]: first and last word of each mention, as places in `words`, and its cluster, from 1 on; mentions whose
    outer words have tokens."""
    text, places = join_tokens(document.words)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = encoded["input_ids"]
    first, count = word_tokens(np.asarray(encoded["offset_mapping"]).reshape(-1, 2), places)
    room = longest - 2
    count = count.clip(max=room)
    sizes, some = count.copy(), np.flatnonzero(count)
    if len(some):  # tokens between words, as of a blank alone, take room too
        sizes[some] = np.diff(first[some], append=first[some[-1]] + count[some[-1]]).clip(max=room)
    segments, words, tokens = [], [], []
    for begin, end in cut(sizes, breaks_of(document), room):
        own = [word for word in range(begin, end) if count[word]]
        if not own:
            continue
        start, stop = first[own[0]], first[own[-1]] + count[own[-1]]
        taken = ids[start:stop][:room]  # more only of one word
        segments.append([tokenizer.cls_token_id, *taken, tokenizer.sep_token_id])
        for word in own:
            at = min(first[word] - start, room - 1)
            tokens.append((len(segments) - 1, at + 1, min(at + count[word], room)))
        words += own
    if not words:
        return None
    place = {word: number for number, word in enumerate(words)}
    gold = [
        (place[a], place[b], number)
        for number, cluster in enumerate(document.clusters, 1)
        for a, b in cluster
        if a in place and b in place
    ]
    return {
        "segments": segments,
        "words": words,
        "tokens": np.array(tokens, dtype=np.int64).reshape(-1, 3),
        "gold": np.array(gold, dtype=np.int64).reshape(-1, 3),
    }


def tokens_of(row: Row) -> int:
    """How long a document is, by which it is put together with others."""
    return sum(map(len, row["segments"]))


def parts_of(row: Row, most: int) -> list[Row]:
    """The row cut into parts of at most so many segments, of about as many each."""
    count = len(row["segments"])
    bounds = np.linspace(0, count, math.ceil(count / most) + 1).round().astype(int).tolist()
    parts = []
    for begin, end in zip(bounds, bounds[1:], strict=False):
        inside = np.flatnonzero((row["tokens"][:, 0] >= begin) & (row["tokens"][:, 0] < end))
        low, high = inside[0], inside[-1]
        gold = row["gold"]
        gold = gold[(gold[:, 0] >= low) & (gold[:, 1] <= high)]
        parts.append(
            {
                "segments": row["segments"][begin:end],
                "words": row["words"][low : high + 1],
                "tokens": row["tokens"][low : high + 1] - np.array([begin, 0, 0]),
                "gold": gold - np.array([low, low, 0]),
            }
        )
    return parts


def collate_documents(rows: Sequence[Row], pad_token_id: int, longest: int) -> dict[str, Tensor]:
    """Documents as a batch: the segments of all [S, L], `words` [W, 4] (document, segment, first and last token as
    places among the S * L) and `gold` [M, 4] (document, first and last word of the batch, cluster)."""
    segments = [{"input_ids": segment} for row in rows for segment in row["segments"]]
    batch = collate_tokens(segments, pad_token_id, longest)
    length = batch["input_ids"].shape[1]
    words, gold = [], []
    segments_before = words_before = 0
    for number, row in enumerate(rows):
        segment = row["tokens"][:, 0] + segments_before
        own = np.full_like(segment, number)
        words.append(
            np.stack([own, segment, *(segment * length + row["tokens"][:, i] for i in (1, 2))], axis=1)
        )
        mentions = row["gold"]
        gold.append(
            np.concatenate(
                [
                    np.full_like(mentions[:, :1], number),
                    mentions[:, :2] + words_before,
                    mentions[:, 2:],
                ],
                axis=1,
            )
        )
        segments_before += len(row["segments"])
        words_before += len(own)
    batch["words"], batch["gold"] = (torch.from_numpy(np.concatenate(x)) for x in (words, gold))
    return batch
