# SPDX-License-Identifier: Apache-2.0
"""`head_targets` and `head_statistics`: against the plain implementation, and examples worked by hand."""

from __future__ import annotations

import pytest
import torch
from cuda_code import on_cuda_code
from torch import Tensor

from spanbert_ext import ops, reference

DEVICES = [
    pytest.param("cpu"),
    pytest.param("cuda", marks=pytest.mark.needs_cuda),
]


def batch(
    rows: int = 3, length: int = 40, slots: int = 9, *, seed: int = 0, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Labels, masked positions and left boundaries, with padding slots and positions without a label among them."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 50, (rows, length), generator=g)
    labels[torch.rand(rows, length, generator=g) < 0.2] = -100
    positions = torch.rand(rows, length, generator=g).argsort(dim=1)[:, :slots].sort(dim=1).values
    positions[torch.rand(positions.shape, generator=g) < 0.3] = -1
    left = (positions - 1).where(torch.rand(positions.shape, generator=g) < 0.7, -1).clamp_min(-1)
    return labels.to(device), positions.to(device), left.to(device)


def assert_equal(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> None:
    for name, g, w in zip(got._fields, got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-6, atol=0, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("device", DEVICES)
def test_by_hand(device: str) -> None:
    """Two rows of four tokens; three tokens have a label, two of them a span-boundary target."""
    labels = torch.tensor([[-100, 7, 8, -100], [-100, -100, 9, -100]], device=device)
    positions = torch.tensor([[1, 2, -1], [0, 2, -1]], device=device)
    left = torch.tensor([[0, 0, -1], [-1, -1, -1]], device=device)
    heads = ops.head_targets(labels, positions, left, sbo_weight=0.5)
    assert heads.counts.tolist() == [3, 2]
    assert heads.token_rows.tolist() == [1, 2, 6, -1, -1, -1]
    assert heads.ranks.tolist() == [[0, 1, -1], [-1, 2, -1]]
    ids = heads.targets.clamp_min(-1).tolist()
    assert ids[:6] == [7, 8, 9, -1, -1, -1] and ids[6:] == [7, 8, -1, -1, -1, -1]
    third, quarter = 1 / 3, 0.25
    assert heads.row_weight.tolist() == pytest.approx([third] * 3 + [0] * 3 + [quarter] * 2 + [0] * 4)

    nll = torch.tensor([1.0, 2, 3, 0, 0, 0, 5, 7, 0, 0, 0, 0], device=device)
    predicted = torch.tensor([7, 1, 9, -1, -1, -1, 7, 8, -1, -1, -1, -1], device=device)
    found = ops.head_statistics(nll, predicted, heads.targets, heads.ranks, has_sbo=True)
    assert found.row_statistics.tolist() == [[3, 2, 1, 12, 2, 2], [3, 1, 1, 0, 0, 0]]
    assert found.means.tolist() == pytest.approx([2, 6, 2 / 3, 1])
    assert found.mlm_prediction.tolist() == [[7, 1, -1], [-1, 9, -1]]
    assert found.sbo_prediction.tolist() == [[7, 8, -1], [-1, -1, -1]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(3, 40, 9), (1, 1, 1), (5, 700, 261), (0, 4, 2), (2, 3, 0), (2, 0, 0)])
@pytest.mark.parametrize("with_sbo", [True, False])
@pytest.mark.parametrize("bounded", [True, False])
def test_equals_reference(shape: tuple[int, int, int], with_sbo: bool, bounded: bool, device: str) -> None:
    labels, positions, left = batch(*shape, device=device)
    counts = {
        "neither": {},
        "one": {"num_items": torch.tensor(31.0, device=device)},
        "both": {
            "num_items": torch.tensor(31.0, device=device),
            "num_sbo_items": torch.tensor(0.0, device=device),
        },
    }
    live = int(reference.head_targets(labels, positions).counts[0])
    for given in counts.values():
        options = {"sbo_weight": 0.7, "max_rows": live + 1 if bounded else None, **given}
        arguments = (labels, positions, left if with_sbo else None)
        heads = ops.head_targets(*arguments, **options)
        assert_equal(heads, reference.head_targets(*arguments, **options))
    nll = torch.rand(heads.targets.shape, dtype=torch.float64, device=device)
    predicted = torch.where(
        torch.rand(nll.shape, device=device) < 0.5, heads.targets, torch.randint_like(heads.targets, 50)
    ).where(heads.targets >= 0, -1)
    outcome = (nll, predicted, heads.targets, heads.ranks)
    assert_equal(
        ops.head_statistics(*outcome, has_sbo=with_sbo), reference.head_statistics(*outcome, has_sbo=with_sbo)
    )


@pytest.mark.parametrize("device", DEVICES)
def test_strided_inputs_and_float64(device: str) -> None:
    labels, positions, left = batch(4, 60, 12, device=device)
    strided = (labels.t().contiguous().t(), positions.t().contiguous().t(), left.t().contiguous().t())
    assert_equal(
        ops.head_targets(*strided, dtype=torch.float64),
        reference.head_targets(labels, positions, left, dtype=torch.float64),
    )


def test_opcheck() -> None:
    labels, positions, left = batch()
    count = torch.tensor(20.0)
    for boundary, items, bound in ((left, None, None), (None, count, 30), (left, count, 30)):
        arguments = (labels, positions, boundary, items, None, 1.0, torch.float32, bound)
        torch.library.opcheck(torch.ops.spanbert_ext.head_targets.default, arguments)
    heads = ops.head_targets(labels, positions, left)
    nll = torch.rand(heads.targets.shape)
    torch.library.opcheck(
        torch.ops.spanbert_ext.head_statistics.default,
        (nll, heads.targets.clamp_min(-1), heads.targets, heads.ranks, True),
    )


@on_cuda_code
def test_a_bound_that_is_too_small_makes_the_weights_nan(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPANBERT_EXT_DEBUG", "0")
    labels, positions, left = batch(device=device)
    live = int(reference.head_targets(labels, positions).counts[0])
    heads = ops.head_targets(labels, positions, left, max_rows=live - 1)
    assert heads.row_weight[heads.targets >= 0].isnan().all()
    assert heads.counts[0] == live and heads.token_rows.shape == (live - 1,)


@on_cuda_code
def test_a_position_beyond_the_row_is_read_nowhere(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANBERT_EXT_DEBUG", "0")
    labels, positions, left = batch(device=device)
    positions[1, 3] = 2**40
    heads = ops.head_targets(labels, positions, left)
    assert heads.token_rows.max() < labels.numel()
    assert (heads.targets == torch.iinfo(torch.int64).max).sum() == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": torch.zeros(3, 40)}, TypeError, "labels has dtype Float"),
        ({"labels": torch.zeros(40, dtype=torch.int64)}, ValueError, r"labels has shape \[40\]"),
        (
            {"masked_positions": torch.zeros(2, 9, dtype=torch.int64)},
            ValueError,
            "masked_positions has shape",
        ),
        ({"left_boundary": torch.zeros(3, 8, dtype=torch.int64)}, ValueError, "left_boundary has shape"),
        ({"num_items": torch.ones(2)}, ValueError, "num_items has shape"),
        (
            {"num_sbo_items": torch.ones((), dtype=torch.float64)},
            ValueError,
            "num_sbo_items has .* dtype Double",
        ),
        ({"max_rows": -1}, ValueError, "max_rows is -1"),
        ({"max_rows": 1}, ValueError, "max_rows is 1, but more"),
        ({"masked_positions": torch.full((3, 9), 40)}, IndexError, "masked_positions has 40"),
        ({"dtype": torch.float16}, TypeError, "dtype is Half"),
        ({"impl": "quick"}, ValueError, "impl is 'quick'"),
    ],
)
def test_bad_input_is_named(change: dict, error: type[Exception], message: str) -> None:
    labels, positions, left = batch()
    arguments = {"labels": labels, "masked_positions": positions, "left_boundary": left} | change
    with pytest.raises(error, match=message):
        ops.head_targets(**arguments)


def test_bad_input_of_the_statistics_is_named() -> None:
    labels, positions, left = batch()
    heads = ops.head_targets(labels, positions, left)
    nll, predicted = torch.zeros(heads.targets.shape), heads.targets
    for change, error, message in (
        ({"nll": nll[1:]}, ValueError, "nll has shape"),
        ({"nll": nll.half()}, TypeError, "nll has dtype Half"),
        ({"prediction": predicted.int()}, TypeError, "prediction has dtype Int"),
        ({"ranks": heads.ranks.flatten()}, ValueError, "ranks has shape"),
        ({"targets": heads.targets[:5], "prediction": predicted[:5], "nll": nll[:5]}, ValueError, "at least"),
    ):
        arguments = {
            "nll": nll, "prediction": predicted, "targets": heads.targets, "ranks": heads.ranks
        } | change  # fmt: skip
        with pytest.raises(error, match=message):
            ops.head_statistics(**arguments, has_sbo=True)
