# SPDX-License-Identifier: Apache-2.0
"""Which rows make which update: every row once an epoch, the same for any division, from any update on."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("datasets")

from spanbert_ext.pretrain.rows.schedule import Part, Phase, Schedule, ScheduleError, shuffled

LENGTHS = np.random.default_rng(0).integers(3, 128, 1000)


def rows_of(schedule: Schedule, updates: range) -> list[tuple[int, int, int]]:
    parts = [schedule.update(number) for number in updates]
    return [
        (part.phase, row, epoch) for part in parts for row, epoch in zip(part.rows, part.epochs, strict=True)
    ]


def same(a: Part, b: Part) -> bool:
    return (
        a.phase == b.phase and a.rows.tolist() == b.rows.tolist() and a.epochs.tolist() == b.epochs.tolist()
    )


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 65, 1000, 4097])
def test_an_order_has_every_number_once(count):
    order = shuffled(np.arange(count), count, 5, 0, 1)
    assert sorted(order) == list(range(count))
    if count > 60:
        assert (order != shuffled(np.arange(count), count, 5, 0, 2)).mean() > 0.9
        assert (order != shuffled(np.arange(count), count, 6, 0, 1)).mean() > 0.9
        part = shuffled(np.array([3, 50, 7]), count, 5, 0, 1)  # any of it alone
        assert part.tolist() == order[[3, 50, 7]].tolist()


def test_orders_are_uniform():
    counts = Counter(tuple(shuffled(np.arange(4), 4, epoch)) for epoch in range(240))
    assert len(counts) == 24
    assert sum((n - 10) ** 2 / 10 for n in counts.values()) < 60  # chi squared, 23 degrees: 1 in 30,000
    ends = np.array([shuffled(np.arange(300), 300, epoch)[[0, 1, 299]] for epoch in range(200)])
    assert ends.mean(0) == pytest.approx(np.full(3, 149.5), abs=4 * 300 / np.sqrt(12 * 200))
    assert abs(np.corrcoef(ends.T) - np.eye(3)).max() < 0.3


def test_orders_never_change():
    """A run that is resumed by a later version reads on where it was."""
    assert shuffled(np.arange(8), 100, 0, 0, 0).tolist() == [37, 30, 1, 52, 31, 39, 87, 86]


@pytest.mark.parametrize("rows", [7, 32, 96, 3000])
def test_updates_of_rows_go_on_over_the_ends_of_epochs(rows):
    schedule = Schedule([Phase(LENGTHS, 7000 // rows, rows=rows)], seed=3, parts=1)
    made = rows_of(schedule, range(len(schedule)))
    assert all(len(schedule.update(number).rows) == rows for number in range(len(schedule)))
    for epoch in range(len(made) // 1000):
        whole = made[1000 * epoch : 1000 * (epoch + 1)]
        assert sorted(row for _, row, _ in whole) == list(range(1000)) and {e for *_, e in whole} == {epoch}
    assert schedule.epoch(len(schedule)) == pytest.approx(len(made) / 1000)


def test_updates_of_tokens_are_nearly_equal_and_have_no_tail():
    total = int(LENGTHS.sum())
    schedule = Schedule([Phase(LENGTHS, 45, tokens=4096)], seed=3, parts=1)
    per_epoch = round(total / 4096)
    sizes = [LENGTHS[schedule.update(number).rows].sum() for number in range(45)]
    assert np.ptp(sizes) <= 2 * 128 and np.mean(sizes[:per_epoch]) == pytest.approx(total / per_epoch)
    made = rows_of(schedule, range(2 * per_epoch))
    assert sorted(row for _, row, epoch in made if epoch == 1) == list(range(1000)) and len(made) == 2000
    assert schedule.epoch(per_epoch) == 1 and schedule.epoch(0) == 0
    whole = Schedule([Phase(LENGTHS, 2, tokens=10**9)], seed=3, parts=2)  # a corpus of less than one update
    assert sorted(whole.update(1).rows) == list(range(1000))


@pytest.mark.parametrize("size", [{"rows": 36}, {"tokens": 4096}])
def test_an_update_reads_the_same_rows_in_any_division(size):
    schedules = [Schedule([Phase(LENGTHS, 40, **size)], seed=3, parts=parts) for parts in (1, 2, 3, 4, 12)]
    for number in range(40):
        whole = schedules[0].update(number)
        for schedule in schedules[1:]:
            divided = schedule.update(number)
            assert divided.rows.tolist() == whole.rows.tolist()
            assert divided.epochs.tolist() == whole.epochs.tolist()
            parts = [schedule.part(number * schedule.parts + part) for part in range(schedule.parts)]
            assert all(len(part.rows) for part in parts)
            if "rows" in size:
                assert {len(part.rows) for part in parts} == {36 // schedule.parts}
            else:
                assert np.ptp([LENGTHS[part.rows].sum() for part in parts]) <= 2 * 128


@pytest.mark.parametrize("size", [{"rows": 32}, {"tokens": 4096}])
def test_any_update_is_made_without_the_ones_before(size):
    def make() -> Schedule:
        return Schedule([Phase(LENGTHS, 20, rows=8), Phase(LENGTHS[:900], 60, **size)], seed=3, parts=2)

    through, forth = make(), make()
    updates = [through.update(number) for number in range(80)]
    for number in (79, 3, 41, 20, 19):
        assert same(make().update(number), updates[number]) and same(forth.update(number), updates[number])


@pytest.mark.parametrize("size", [{"rows": 32}, {"tokens": 4096}])
def test_what_is_kept_changes_nothing(size, monkeypatch):
    """Orders of few rows are kept whole, of many rows made in parts."""
    kept = Schedule([Phase(LENGTHS, 70, **size)], seed=3, parts=2)
    monkeypatch.setattr("spanbert_ext.pretrain.rows.schedule._KEPT", 10)
    made = Schedule([Phase(LENGTHS, 70, **size)], seed=3, parts=2)
    assert all(same(kept.update(number), made.update(number)) for number in (0, 30, 31, 32, 63, 69))


def test_phases_have_rows_and_epochs_of_their_own():
    schedule = Schedule(
        [Phase(LENGTHS, 50, rows=32), Phase(LENGTHS, 0, rows=32), Phase(LENGTHS[:100], 30, rows=32)], 3, 1
    )
    assert len(schedule) == 80 and len(schedule.phases) == 2
    first, second = rows_of(schedule, range(50)), rows_of(schedule, range(50, 80))
    assert {phase for phase, *_ in first} == {0} and {phase for phase, *_ in second} == {1}
    assert second[0][2] == 0 and max(row for _, row, _ in second) == 99
    assert schedule.epoch(50) == pytest.approx(1.6) and schedule.epoch(80) == pytest.approx(1.6 + 9.6)
    with pytest.raises(IndexError, match="update 80 of a schedule of 80"):
        schedule.update(80)


def test_updates_with_too_few_tokens_for_their_parts():
    Schedule([Phase(np.full(100, 128), 5, tokens=264)], seed=0, parts=2)
    with pytest.raises(
        ScheduleError, match="an update of 256 tokens in 2 parts .* row of 128 tokens in each"
    ):
        Schedule([Phase(np.full(100, 128), 5, tokens=256)], seed=0, parts=2)
