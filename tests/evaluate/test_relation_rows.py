# SPDX-License-Identifier: Apache-2.0
"""Markers, types in the place of spans, and rows that are too long for all of their text."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("transformers")

import tiny_documents
import tiny_tasks

from spanbert_ext.evaluate.data.errors import DataError
from spanbert_ext.evaluate.data.relations import Relation
from spanbert_ext.evaluate.tasks.relation.files import RelationData
from spanbert_ext.evaluate.tasks.relation.rows import make_rows, replaced, surrounded, symbol_ids, symbols_of

M = [101, 102, 103, 104]  # head, its end, tail, its end
TOKENS = list(range(8))


def starts_are(marked: list[int], starts: list[int], head: int, tail: int) -> bool:
    return [marked[place] for place in starts] == [head, tail]


@pytest.mark.parametrize(
    "head, tail, expected",
    [
        ((1, 2), (5, 5), [0, 101, 1, 2, 102, 3, 4, 103, 5, 104, 6, 7]),
        ((5, 5), (1, 2), [0, 103, 1, 2, 104, 3, 4, 101, 5, 102, 6, 7]),
        ((0, 3), (4, 7), [101, 0, 1, 2, 3, 102, 103, 4, 5, 6, 7, 104]),
        ((1, 5), (2, 3), [0, 101, 1, 103, 2, 3, 104, 4, 5, 102, 6, 7]),
        ((2, 3), (2, 6), [0, 1, 103, 101, 2, 3, 102, 4, 5, 6, 104, 7]),
        ((2, 6), (4, 6), [0, 1, 101, 2, 3, 103, 4, 5, 6, 104, 102, 7]),
        ((4, 6), (2, 6), [0, 1, 103, 2, 3, 101, 4, 5, 6, 102, 104, 7]),
        ((3, 3), (3, 3), [0, 1, 2, 101, 103, 3, 104, 102, 4, 5, 6, 7]),
    ],
)
def test_markers_stand_around_both_spans(
    head: tuple[int, int], tail: tuple[int, int], expected: list[int]
) -> None:
    marked, starts, places = surrounded(TOKENS, head, tail, M)
    assert marked == expected
    assert starts_are(marked, starts, 101, 103) and [marked[place] for place in places] == M


@pytest.mark.parametrize(
    "head, tail, expected",
    [
        ((1, 2), (5, 6), [0, 201, 3, 4, 202, 7]),
        ((5, 6), (1, 2), [0, 202, 3, 4, 201, 7]),
        ((0, 3), (4, 7), [201, 202]),
        ((1, 5), (2, 3), [0, 201, 202, 6, 7]),
        ((2, 3), (1, 5), [0, 202, 201, 6, 7]),
    ],
)
def test_types_stand_in_the_place_of_both_spans(
    head: tuple[int, int], tail: tuple[int, int], expected: list[int]
) -> None:
    marked, starts, needed = replaced(TOKENS, head, tail, 201, 202)
    assert marked == expected
    assert starts_are(marked, starts, 201, 202) and sorted(starts) == needed


def relation(text: str, head: str, tail: str, types: tuple[str, str] | None = None) -> Relation:
    spans = [(text.index(span), text.index(span) + len(span)) for span in (head, tail)]
    return Relation("r1", text, *spans, "yes", "g", *(types or (None, None)))


def data_of(*relations: Relation) -> RelationData:
    return RelationData("tiny", (Path("tiny.txt"),), relations, 0, ("no", "yes"))


def test_unused_ids_are_taken_first_and_then_new_ones() -> None:
    tokenizer = tiny_documents.tokenizer()
    size = len(tokenizer)
    assert symbol_ids(4, tokenizer) == [size, size + 1, size + 2, size + 3]
    tokenizer.add_tokens(["[unused0]", "[unused1]", "[unused2]"])
    assert symbol_ids(4, tokenizer) == [size + 1, size + 2, size + 3, size + 4]


def test_every_side_and_type_has_an_id_of_its_own() -> None:
    data = data_of(
        relation("Anna met Tom", "Anna", "Tom", ("PERSON", "PERSON")),
        relation("Anna met Tom", "Tom", "Anna", ("CITY", "PERSON")),
    )
    assert symbols_of(data, True) == [("head", "CITY"), ("head", "PERSON"), ("tail", "PERSON")]
    tokenizer = tiny_documents.tokenizer()
    size = len(tokenizer)
    first, second = make_rows(data, [0, 1], tokenizer, True, 16)
    (met,) = tokenizer.convert_tokens_to_ids(["met"])
    assert first == {"input_ids": [2, size + 1, met, size + 2, 3], "starts": [1, 3]}
    assert second == {"input_ids": [2, size + 2, met, size, 3], "starts": [3, 1]}


@pytest.mark.parametrize("longest", [16, 17, 24])
@pytest.mark.parametrize("gap", [0, 4, 50])
@pytest.mark.parametrize("before", [0, 30])
def test_a_row_that_is_too_long_keeps_its_markers(longest: int, gap: int, before: int) -> None:
    text = " ".join(["the"] * before + ["Anna"] + ["city"] * gap + ["Tom"] + ["boat"] * 40)
    tokenizer = tiny_documents.tokenizer()
    size = len(tokenizer)
    (row,) = make_rows(data_of(relation(text, "Tom", "Anna")), [0], tokenizer, False, longest)
    ids = row["input_ids"]
    assert len(ids) == longest and ids[0] == 2 and ids[-1] == 3
    anna, tom = (tokenizer.convert_tokens_to_ids(name) for name in ("anna", "tom"))
    assert [token for token in ids if token >= size] == [size + 2, size + 3, size, size + 1]
    at = ids.index(anna)
    assert ids[at - 1 : at + 2] == [size + 2, anna, size + 3]
    at = ids.index(tom)
    assert ids[at - 1 : at + 2] == [size, tom, size + 1]
    assert [ids[start] for start in row["starts"]] == [size, size + 2]


def test_spans_longer_than_the_row_keep_their_markers_and_ends() -> None:
    text = " ".join(["Anna"] + ["city"] * 60 + ["Tom", "sang", "She"] + ["boat"] * 60 + ["warm"])
    words = text.split(" sang ")
    tokenizer = tiny_documents.tokenizer()
    size = len(tokenizer)
    (row,) = make_rows(data_of(relation(text, *words)), [0], tokenizer, False, 16)
    assert [token for token in row["input_ids"] if token >= size] == [size, size + 1, size + 2, size + 3]
    tokens = tokenizer.convert_ids_to_tokens([t for t in row["input_ids"] if t < size])
    assert {"anna", "tom", "she", "warm"} <= set(tokens)


def test_a_span_without_a_token_is_refused() -> None:
    data = data_of(relation("Anna \u200b sang", "Anna", "\u200b"))
    with pytest.raises(DataError, match=r"makes no token of the tail .* of 'r1'"):
        make_rows(data, [0], tiny_documents.tokenizer(), False, 16)


def test_new_ids_have_rows_drawn_by_the_seed_and_old_ones_stay(tmp_path) -> None:
    import torch
    from transformers import AutoModel

    from spanbert_ext.evaluate.tasks.loading import load_model
    from spanbert_ext.evaluate.tasks.relation.model import give_ids

    tokenizer = tiny_documents.tokenizer()
    checkpoint = tiny_tasks.save_checkpoint(tmp_path / "tiny", tokenizer)
    size = len(tokenizer)

    def table(ids: list[int], seed: int) -> torch.Tensor:
        encoder = load_model(AutoModel, checkpoint, 0)
        give_ids(encoder, ids, seed)
        return encoder.get_input_embeddings().weight.detach()

    plain, first, again, other = (
        table([size - 1], 0),
        table([size, size + 3], 1),
        table([size, size + 3], 1),
        table([size, size + 3], 2),
    )
    assert len(plain) == size and len(first) == size + 4
    assert torch.equal(first[:size], plain) and torch.equal(first, again)
    assert not torch.equal(first[size:], other[size:])
