# SPDX-License-Identifier: Apache-2.0
"""The width of columns that the collator passes on: the ids' where they have an element for each token."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import one_thread, tiny_tokenizer  # noqa: F401

from spanbert_ext import DataCollatorForSpanMasking

LENGTHS = {"ragged": (12, 22, 30), "equal": (22, 22, 22), "one": (22,)}
FORMS = {"lists": np.ndarray.tolist, "arrays": np.asarray, "tensors": torch.tensor}


def batch_of(lengths, column: str, rows: list, multiple: int | None = None, side: str = "right") -> dict:
    tokenizer = tiny_tokenizer(padding_side=side)
    ids = [[2, *[7] * (length - 2), 3] for length in lengths]
    features = [{"input_ids": row, column: value} for row, value in zip(ids, rows, strict=True)]
    return DataCollatorForSpanMasking(tokenizer, epoch=0, pad_to_multiple_of=multiple)(features)


@pytest.mark.parametrize("multiple", [8, 64])
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_boxes_get_the_ids_width(multiple, lengths, form, side):
    lengths = LENGTHS[lengths]
    boxes = [np.arange(1, 4 * n + 1).reshape(n, 4) for n in lengths]
    batch = batch_of(lengths, "bbox", [FORMS[form](box) for box in boxes], multiple, side)
    width = batch["input_ids"].shape[1]
    assert width % multiple == 0 and batch["bbox"].shape == (len(lengths), width, 4)
    for found, box in zip(batch["bbox"].numpy(), boxes, strict=True):
        pad = width - len(box)
        tokens, padding = (found[:-pad], found[-pad:]) if side == "right" else (found[pad:], found[:pad])
        assert (tokens == box).all() and not padding.any()


@pytest.mark.parametrize("name", ["global_attention_mask", "langs", "task_type_ids"])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_other_native_columns(name, lengths):
    lengths = LENGTHS[lengths]
    batch = batch_of(lengths, name, [[1] * n for n in lengths], 64)
    assert batch[name].shape == batch["input_ids"].shape == (len(lengths), 64)
    assert batch[name].sum(1).tolist() == list(lengths)


def test_unknown_columns_where_rows_differ_in_length():
    batch = batch_of((12, 22), "tags", [[1] * 12, [1] * 22], 64)
    assert batch["tags"].shape == (2, 64) and batch["tags"].sum(1).tolist() == [12, 22]


@pytest.mark.parametrize("lengths", [(2, 2), (22,), (22, 22)])
@pytest.mark.parametrize("form", FORMS)
def test_a_vector_that_is_as_long_by_chance_keeps_its_size(lengths, form):
    """A batch of rows of one length proves nothing of a name that is not known."""
    rows = [FORMS[form](np.arange(n)) for n in lengths]
    batch = batch_of(lengths, "features", rows, 64)
    assert batch["input_ids"].shape[1] == 64 and batch["features"].shape == (len(lengths), lengths[0])


@pytest.mark.parametrize("rows", [[5, 6], ["en", "fr"], [[1, 2, 3], [4, 5, 6]], ["a" * 12, "b" * 22]])
def test_what_is_not_along_the_tokens_passes_under_a_native_name(rows):
    found = batch_of((12, 22), "langs", rows, 64)["langs"]
    assert (found.tolist() if isinstance(found, torch.Tensor) else found) == rows
