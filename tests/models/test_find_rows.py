# SPDX-License-Identifier: Apache-2.0
"""Which rows are read and which positions have a label: by hand, counted and where nothing may be counted."""

from __future__ import annotations

import pytest
import torch

from spanbert_ext.models import read_rows
from spanbert_ext.models.read_rows import find_read_rows, labelled_positions


class TestFindReadRows:
    # 2 rows of 6: the second has a position at its end, one twice, and some that are none
    POSITIONS = (torch.tensor([[-1], [0]]), torch.tensor([[-1], [5]]), torch.tensor([[6], [0]]))

    def test_by_hand(self):
        assert find_read_rows(self.POSITIONS, 2, 6).index.tolist() == [0, 6, 11]
        assert find_read_rows(self.POSITIONS, 2, 6)[1:] == (2, 6, None)
        assert find_read_rows((torch.full((2, 3), -1),), 2, 6).index.tolist() == [0, 6]
        int32 = torch.full((2, 1), 2, dtype=torch.int32)
        assert find_read_rows((torch.full((2, 3), -7), int32), 2, 6).index.tolist() == [0, 2, 6, 8]

    def test_by_hand_bounded(self, monkeypatch):
        monkeypatch.setattr(read_rows, "may_read_values", lambda x: False)
        # room for 1 + 3 positions of each row: what is read, then rows from the front
        assert find_read_rows(self.POSITIONS, 2, 6).index.tolist() == [0, 6, 11, 1, 2, 3, 4, 5]
        assert find_read_rows((torch.zeros(2, 5, dtype=torch.int64),), 2, 6) is None  # could be all of them

    def test_a_bound_says_how_many(self, monkeypatch):
        with pytest.raises(ValueError, match="max_read_rows is 2, but the heads read 3 rows"):
            find_read_rows(self.POSITIONS, 2, 6, 2)
        assert find_read_rows(self.POSITIONS, 2, 6, 3).index.tolist() == [0, 6, 11]
        monkeypatch.setattr(read_rows, "may_read_values", lambda x: False)
        for bound in (0, 1, 2, 3, 5, 7):
            found = find_read_rows(self.POSITIONS, 2, 6, bound)
            assert found.index.tolist() == [0, 6, 11, 1, 2, 3, 4][:bound]
            assert found.fill.isnan() if bound < 3 else found.fill == 0
        for bound in (8, 100):  # no less than is known anyway
            assert find_read_rows(self.POSITIONS, 2, 6, bound).fill is None
        full = (torch.zeros(2, 5, dtype=torch.int64),)
        assert find_read_rows(full, 2, 6, 4).index.tolist() == [0, 6, 1, 2]
        assert find_read_rows(full, 2, 6, 12) is None

    def test_bounded_rows_are_a_stable_partition(self, monkeypatch):
        monkeypatch.setattr(read_rows, "may_read_values", lambda x: False)
        for seed in range(5):
            torch.manual_seed(seed)
            positions = torch.randint(-2, 34, (5, 7))
            read = {
                b * 32 + (p if 0 <= p < 32 else 0)
                for b, row in enumerate(positions.tolist())
                for p in [*row, 0]
            }
            others = sorted(set(range(160)) - read)
            found = find_read_rows((positions,), 5, 32).index.tolist()
            assert found == [*sorted(read), *others][: 5 * 8]

    def test_tensors_that_do_not_fit_are_left_to_the_loss(self):
        fits = torch.zeros(2, 1, dtype=torch.int64)
        for bad in (fits[:1], fits[:, 0], fits.double(), fits.to("meta")):
            assert find_read_rows((fits, bad), 2, 6) is None

    def test_empty_batches(self):
        for batch, length in ((0, 6), (2, 0)):
            found = find_read_rows((torch.full((batch, 1), -1),), batch, length)
            assert found.index.tolist() == []


class TestLabelledPositions:
    LABELS = torch.tensor([[-100, 4, -100, 4, -1], [-100] * 5, [4, -100, -100, -100, 0]])

    def test_by_hand(self):
        found = labelled_positions(self.LABELS, False)
        assert found.positions.tolist() == [[1, 3], [-1, -1], [0, 4]]
        assert (found.max_rows, found.max_read_rows) == (256, 256)  # 4 and 6, rounded up
        none = labelled_positions(torch.full((2, 5), -100), False)
        assert none.positions.tolist() == [[-1], [-1]] and none.max_rows == 0
        with pytest.raises(ValueError, match=r"labels has shape \[5\], expected \[B, L\]"):
            labelled_positions(self.LABELS[0], True)
        for shape in ((0, 5), (2, 0)):
            assert labelled_positions(torch.zeros(shape, dtype=torch.int64), True).positions.shape == shape

    def test_by_hand_where_values_may_not_be_read(self, monkeypatch):
        counted = labelled_positions(self.LABELS, True)
        monkeypatch.setattr(read_rows, "may_read_values", lambda x: False)
        assert torch.equal(labelled_positions(self.LABELS, True).positions, counted.positions)
        found = labelled_positions(self.LABELS, False)
        assert found.positions.tolist() == [[1, 3, -1, -1, -1], [-1] * 5, [0, 4, -1, -1, -1]]
        assert (found.max_rows, found.max_read_rows) == (None, None)
        assert labelled_positions(self.LABELS.to("meta"), True).positions.shape == (3, 5)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert labelled_positions(self.LABELS, True).positions.shape == (3, 5)
