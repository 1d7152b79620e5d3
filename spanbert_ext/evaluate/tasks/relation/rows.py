# SPDX-License-Identifier: Apache-2.0
"""Relations as rows of tokens, in which the two spans are marked or replaced by their types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.tasks.relation.files import RelationData
from spanbert_ext.evaluate.tasks.spans import kept_tokens, token_span

HEAD, HEAD_END, TAIL, TAIL_END = range(4)  # markers
MARKERS = 4


def symbols_of(data: RelationData, types: bool) -> list[tuple[str, str]]:
    """What needs an id of its own: the four markers, or (side, type) of every type."""
    if not types:
        return [("head", "begins"), ("head", "ends"), ("tail", "begins"), ("tail", "ends")]
    heads = {("head", relation.head_type or "") for relation in data.relations}
    tails = {("tail", relation.tail_type or "") for relation in data.relations}
    return [*sorted(heads), *sorted(tails)]


def symbol_ids(count: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids for `count` symbols: BERT's `[unusedN]` as far as the vocabulary has them, then new ones behind it."""
    vocabulary = tokenizer.get_vocab()
    unused = []
    while len(unused) < count and (token := f"[unused{len(unused) + 1}]") in vocabulary:
        unused.append(vocabulary[token])
    first_new = max(vocabulary.values()) + 1
    return [*unused, *range(first_new, first_new + count - len(unused))]


def make_rows(
    data: RelationData, indices: Sequence[int], tokenizer: PreTrainedTokenizerBase, types: bool, longest: int
) -> list[dict[str, Any]]:
    """A row for each relation: `input_ids`, of at most `longest`, and `starts`, the places of the head's and the tail's
    opening marker or type. A row that is too long loses what is farthest from these and never a marker. Raises
    `DataError` for a span that the tokenizer makes nothing of."""
    relations = [data.relations[index] for index in indices]
    symbols = symbols_of(data, types)
    ids = dict(zip(symbols, symbol_ids(len(symbols), tokenizer), strict=True))
    encoded = tokenizer(
        [relation.text for relation in relations],
        add_special_tokens=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    rows = []
    for relation, tokens, offsets in zip(
        relations, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        places = np.asarray(offsets).reshape(-1, 2)
        head, tail = (token_span(places, *span) for span in (relation.head, relation.tail))
        for name, span, found in (("head", relation.head, head), ("tail", relation.tail, tail)):
            if found is None:
                text = relation.text[slice(*span)]
                raise DataError(
                    data.files[0],
                    f"{data.name}: the tokenizer makes no token of the {name} {text!r} of {relation.id!r}",
                )
        if types:
            head_id, tail_id = ids["head", relation.head_type], ids["tail", relation.tail_type]
            marked, starts, needed = replaced(tokens, head, tail, head_id, tail_id)
        else:
            marked, starts, needed = surrounded(tokens, head, tail, list(ids.values()))
        kept = kept_tokens(len(marked), needed, longest - 2)
        rows.append(
            {
                "input_ids": [
                    tokenizer.cls_token_id,
                    *(marked[place] for place in kept),
                    tokenizer.sep_token_id,
                ],
                "starts": [int(np.searchsorted(kept, start)) + 1 for start in starts],
            }
        )
    return rows


Marked = tuple[list[int], list[int], list[int]]  # ids, places of head and tail, places that stay


def surrounded(
    tokens: Sequence[int], head: tuple[int, int], tail: tuple[int, int], ids: Sequence[int]
) -> Marked:
    """Markers around both spans, which may lie in each other: the outer one's are outside. ids: of the markers."""
    inserts = []  # (before which token, closing ones first, inner closing and outer opening ones first, marker)
    for (first, last), opening, closing in ((head, HEAD, HEAD_END), (tail, TAIL, TAIL_END)):
        inserts.append((first, 1, (-last, opening), opening))
        inserts.append((last + 1, 0, (-first, -opening), closing))
    marked: list[int] = []
    places = [0] * MARKERS
    done = 0
    for before, _, _, marker in sorted(inserts):
        marked += tokens[done:before]
        places[marker] = len(marked)
        marked.append(ids[marker])
        done = before
    return [*marked, *tokens[done:]], [places[HEAD], places[TAIL]], places


def replaced(
    tokens: Sequence[int], head: tuple[int, int], tail: tuple[int, int], head_id: int, tail_id: int
) -> Marked:
    """Each span replaced by one token; two that overlap by two, at the place of both together."""
    (first, second), order = ((head, tail), (0, 1)) if head <= tail else ((tail, head), (1, 0))
    between = tokens[first[1] + 1 : second[0]]
    after = max(first[1], second[1]) + 1
    own = [(head_id, tail_id)[side] for side in order]
    marked = [*tokens[: first[0]], own[0], *between, own[1], *tokens[after:]]
    places = [first[0], first[0] + 1 + len(between)]
    starts = [places[order.index(side)] for side in (0, 1)]
    return marked, starts, places
