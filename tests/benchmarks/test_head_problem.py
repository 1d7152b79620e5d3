# SPDX-License-Identifier: Apache-2.0
"""The batches of bench_sbo.py: the same targets in every form, and the bound that a collator gives."""

from __future__ import annotations

import pytest
import torch
from bench_runs import import_from_benchmarks  # noqa: F401


def test_ragged_rows_and_their_targets_agree_in_every_form() -> None:
    from support.head_problem import IGNORED, make_batch
    from support.text import Shape

    shape = Shape("ragged", hidden=8, vocab=97, rows=16, length=64, ragged=True)
    batch = make_batch(shape, 3, torch.device("cpu"))
    assert (batch.masked_positions < 0).sum() > batch.masked_positions.numel() // 2
    assert torch.equal(batch.labels.flatten()[batch.mlm_rows], batch.mlm_targets)
    assert (batch.labels != IGNORED).sum() == len(batch.mlm_targets)
    dense = batch.pair_targets[batch.pair_targets != IGNORED]
    assert torch.equal(dense, batch.sbo_targets)  # both run by row, span and slot
    spans, slots = (batch.pair_targets != IGNORED).flatten(0, 1).nonzero().unbind(1)
    left, right = batch.pairs.flatten(0, 1)[spans].unbind(1)
    assert torch.equal(left, batch.sbo_left_rows) and torch.equal(right, batch.sbo_right_rows)
    assert torch.equal(slots, batch.sbo_slots)


@pytest.mark.parametrize("name", ["base-32x512", "base-32x512-ragged"])
def test_the_fused_loss_is_given_the_collators_bound(name: str) -> None:
    from dataclasses import replace

    from support.head_problem import make_batch
    from support.text import Shape

    shape = replace(Shape.parse(name), hidden=8)
    batch = make_batch(shape, 3, torch.device("cpu"))
    if not shape.ragged:  # nothing to gain: nearly all entries are taken
        assert batch.max_rows is None
        return
    assert batch.max_rows is not None
    assert len(batch.mlm_rows) <= batch.max_rows < len(batch.mlm_rows) + 256 and batch.max_rows % 256 == 0
