# SPDX-License-Identifier: Apache-2.0
"""The composed loss against a plain loop over masked tokens, and its counting rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spanbert_ext import ops
from spanbert_ext.models.span_boundary_head import SpanBoundaryHead

HIDDEN, VOCAB, LENGTH = 12, 37, 14


@dataclass
class Heads:
    transform: nn.Module
    sbo: SpanBoundaryHead
    weight: nn.Parameter
    bias: nn.Parameter

    def parameters(self) -> list[Tensor]:
        return [*self.transform.parameters(), *self.sbo.parameters(), self.weight, self.bias]


@dataclass
class Batch:
    x: Tensor
    labels: Tensor
    masked_positions: Tensor
    left_boundary: Tensor
    right_boundary: Tensor

    def rows(self, *index: int) -> Batch:
        pick = list(index)
        return Batch(*(t[pick] for t in vars(self).values()))


@pytest.fixture
def heads() -> Heads:
    torch.manual_seed(1)
    transform = nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.LayerNorm(HIDDEN)).double()
    sbo = SpanBoundaryHead(HIDDEN, HIDDEN, VOCAB, position_dim=5, position_slots=4).double()
    with torch.no_grad():
        for parameter in sbo.parameters():  # the initial values are too regular to tell a wrong formula
            parameter.add_(0.3 * torch.randn_like(parameter))
    weight = nn.Parameter(torch.randn(VOCAB, HIDDEN, dtype=torch.float64))
    return Heads(transform, sbo, weight, nn.Parameter(torch.randn(VOCAB, dtype=torch.float64)))


@pytest.fixture
def batch() -> Batch:
    """Row 0: spans 2-4 and 6 share boundary 5; row 1: span 1-2 beside [CLS] (no SBO), span 5-9 longer than the slots;
    row 2: nothing masked; row 3: one span."""
    positions = [[2, 3, 4, 6, -1, -1, -1], [1, 2, 5, 6, 7, 8, 9], [-1] * 7, [11, -1, -1, -1, -1, -1, -1]]
    left = [[1, 1, 1, 5, -1, -1, -1], [-1, -1, 4, 4, 4, 4, -1], [-1] * 7, [10, -1, -1, -1, -1, -1, -1]]
    right = [[5, 5, 5, 7, -1, -1, -1], [-1, -1, 10, 10, 10, 10, -1], [-1] * 7, [12, -1, -1, -1, -1, -1, -1]]
    torch.manual_seed(2)
    labels = torch.full((4, LENGTH), -100)
    for row, masked in enumerate(positions):
        for position in masked:
            if position >= 0:
                labels[row, position] = torch.randint(VOCAB, ()).item()
    x = torch.randn(4, LENGTH, HIDDEN, dtype=torch.float64, requires_grad=True)
    return Batch(x, labels, *(torch.tensor(t) for t in (positions, left, right)))


def run(batch: Batch, heads: Heads, **options: Any) -> ops.SpanPretrainingOutput:
    return ops.span_pretraining_loss(
        batch.x,
        batch.labels,
        batch.masked_positions,
        batch.left_boundary,
        batch.right_boundary,
        transform=heads.transform,
        weight=heads.weight,
        bias=heads.bias,
        boundary_rows=heads.sbo,
        sbo_bias=heads.sbo.bias,
        **options,
    )


def token_losses(batch: Batch, heads: Heads) -> tuple[list[Tensor], list[Tensor]]:
    """One masked token at a time, straight from paper section 2.2."""
    mlm, sbo = [], []
    head = heads.sbo
    for row in range(len(batch.x)):
        for k, position in enumerate(batch.masked_positions[row].tolist()):
            if position < 0:
                continue
            x, target = batch.x[row], batch.labels[row, position]
            logits = heads.weight @ heads.transform(x[position]) + heads.bias
            mlm.append(F.cross_entropy(logits, target))
            left, right = batch.left_boundary[row, k], batch.right_boundary[row, k]
            if left < 0:
                continue
            relative = head.position_embeddings.weight[position - left - 1]
            h = head.norm1(F.gelu(head.dense1(torch.cat([x[left], x[right], relative]))))
            y = head.norm2(F.gelu(head.dense2(h)))
            sbo.append(F.cross_entropy(heads.weight @ y + head.bias, target))
    return mlm, sbo


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("sbo_weight", [1.0, 0.25])
def test_float64_equals_a_loop_over_tokens(batch: Batch, heads: Heads, impl: str, sbo_weight: float) -> None:
    mlm, sbo = token_losses(batch, heads)
    assert (len(mlm), len(sbo)) == (12, 9)
    mlm_loss, sbo_loss = sum(mlm) / len(mlm), sum(sbo) / len(sbo)
    expected = mlm_loss + sbo_weight * sbo_loss
    output = run(batch, heads, sbo_weight=sbo_weight, impl=impl)
    for got, want in ((output.loss, expected), (output.mlm_loss, mlm_loss), (output.sbo_loss, sbo_loss)):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
    assert (output.mlm_count.item(), output.sbo_count.item()) == (12, 9)
    leaves = [batch.x, *heads.parameters()]
    for got, want in zip(
        torch.autograd.grad(output.loss, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


def test_accumulated_batches_equal_one_batch_when_both_counts_are_given(batch: Batch, heads: Heads) -> None:
    leaves = [batch.x, *heads.parameters()]
    whole = torch.autograd.grad(run(batch, heads).loss, leaves)
    counts = {"num_items_in_batch": torch.tensor(12), "num_sbo_items": 9}
    parts = sum(run(batch.rows(row), heads, **counts).loss for row in range(4))
    for got, want in zip(torch.autograd.grad(parts, leaves), whole, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_mlm_count_alone_scales_sbo_by_the_share_of_mlm_targets(batch: Batch, heads: Heads) -> None:
    part = batch.rows(0, 1)  # 11 MLM targets of 40, 8 SBO targets
    output = run(part, heads, num_items_in_batch=40, sbo_weight=0.5)
    mlm, sbo = token_losses(part, heads)
    expected = sum(mlm) / 40 + 0.5 * (11 / 40) * sum(sbo) / 8
    torch.testing.assert_close(output.loss, expected, rtol=0, atol=1e-10)
    # The reported losses stay means over this batch.
    torch.testing.assert_close(output.mlm_loss, sum(mlm) / 11, rtol=0, atol=1e-10)


def test_nothing_masked_is_a_zero_loss_with_zero_gradients(batch: Batch, heads: Heads) -> None:
    leaves = [batch.x, *heads.parameters()]
    for slots in (7, 0):
        row = batch.rows(2)
        indices = {name: getattr(row, name)[:, :slots] for name in vars(row) if "_" in name}
        output = run(replace(row, **indices), heads)
        assert output.loss.item() == output.mlm_loss.item() == output.sbo_loss.item() == 0
        assert output.mlm_accuracy.item() == 0
        # Every parameter takes part: DDP waits for each.
        for gradient in torch.autograd.grad(output.loss, leaves):
            assert gradient.abs().max().item() == 0
    no_rows = batch.rows()
    assert run(no_rows, heads).loss.item() == 0


def test_mlm_alone(batch: Batch, heads: Heads) -> None:
    with torch.no_grad():
        heads.bias.zero_()  # a decoder without a bias
    mlm, _ = token_losses(batch, heads)
    for impl in ("fused", "reference"):
        output = ops.span_pretraining_loss(
            batch.x,
            batch.labels,
            batch.masked_positions,
            transform=heads.transform,
            weight=heads.weight,
            bias=None,
            impl=impl,
        )
        torch.testing.assert_close(output.loss, sum(mlm) / len(mlm), rtol=0, atol=1e-10)
        assert output.sbo_count.item() == 0 and output.sbo_loss.item() == 0
        assert set(output.sbo_prediction.flatten().tolist()) == {-1}


def test_statistics_and_predictions_per_row(batch: Batch, heads: Heads) -> None:
    output = run(batch, heads)
    mlm, sbo = token_losses(batch, heads)
    expected = torch.zeros(4, 6, dtype=torch.float64)
    mlm_rows, sbo_rows = [0] * 4 + [1] * 7 + [3], [0] * 4 + [1] * 4 + [3]
    for column, rows, losses in ((0, mlm_rows, mlm), (3, sbo_rows, sbo)):
        for row, loss in zip(rows, losses, strict=True):
            expected[row, column] += loss.item()
            expected[row, column + 1] += 1
    for row in range(4):
        for k in range(7):
            position = batch.masked_positions[row, k]
            if position >= 0:
                target = batch.labels[row, position]
                expected[row, 2] += output.mlm_prediction[row, k] == target
                expected[row, 5] += output.sbo_prediction[row, k] == target
    torch.testing.assert_close(output.row_statistics, expected, rtol=0, atol=1e-10)
    assert output.mlm_accuracy.item() == pytest.approx(expected[:, 2].sum().item() / 12)
    logits = heads.transform(batch.x[0, 2]) @ heads.weight.t() + heads.bias
    assert output.mlm_prediction[0, 0] == logits.argmax()
    assert ((output.sbo_prediction >= 0) == (batch.left_boundary >= 0)).all()


def test_only_the_loss_is_differentiable(batch: Batch, heads: Heads) -> None:
    output = run(batch, heads)
    assert [name for name, value in output._asdict().items() if value.requires_grad] == ["loss"]


def test_compile_fullgraph(batch: Batch, heads: Heads) -> None:
    leaves = [batch.x, *heads.parameters()]
    compiled = torch.compile(
        lambda x: run(replace(batch, x=x), heads).loss, fullgraph=True, backend="aot_eager"
    )
    got = torch.autograd.grad(compiled(batch.x), leaves)
    for one, other in zip(got, torch.autograd.grad(run(batch, heads).loss, leaves), strict=True):
        torch.testing.assert_close(one, other)


def test_a_bound_of_the_rows_changes_nothing_unless_it_is_too_small(batch: Batch, heads: Heads) -> None:
    count = int(run(batch, heads).mlm_count)
    for max_rows in (count, 256):
        assert torch.equal(run(batch, heads, max_rows=max_rows).loss, run(batch, heads).loss)
    with pytest.raises(ValueError, match="max_rows is"):
        run(batch, heads, max_rows=1)


@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_a_bound_counts_boundaries_of_positions_without_a_label(
    batch: Batch, heads: Heads, impl: str
) -> None:
    """As where a user has taken labels away: such a position is no target, but has a row of the boundaries."""
    labels = batch.labels.clone()
    labels[0, 2:5] = labels[1, 5:7] = -100
    few = replace(batch, labels=labels)
    found = run(few, heads, impl=impl)
    assert (int(found.mlm_count), int(found.sbo_count)) == (7, 4)
    assert torch.equal(run(few, heads, impl=impl, max_rows=9).loss, found.loss)
    message = (
        "span_pretraining_loss: max_rows is 8, expected at least 9, the masked positions that have boundaries"
    )
    with pytest.raises(ValueError, match=message):
        run(few, heads, impl=impl, max_rows=8)


def test_label_smoothing_applies_to_both_heads(batch: Batch, heads: Heads) -> None:
    fused, plain = (run(batch, heads, label_smoothing=0.2, impl=impl).loss for impl in ("fused", "reference"))
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-10)
    assert abs(fused.item() - run(batch, heads).loss.item()) > 1e-3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda b: replace(b, x=b.x[0]), ValueError, r"x has shape \[14, 12\], expected \[B, L, H\]"),
        (lambda b: replace(b, labels=b.labels[:, 1:]), ValueError, r"labels has shape \[4, 13\]"),
        (
            lambda b: replace(b, masked_positions=b.masked_positions[1:]),
            ValueError,
            "masked_positions has shape",
        ),
        (lambda b: replace(b, left_boundary=b.left_boundary[:, 1:]), ValueError, "left_boundary has shape"),
        (lambda b: replace(b, left_boundary=None), ValueError, "go together"),
        (
            lambda b: replace(b, masked_positions=b.masked_positions + 9),
            IndexError,
            "masked_positions has values",
        ),
        (
            lambda b: replace(b, masked_positions=b.masked_positions.float()),
            TypeError,
            "masked_positions has dtype",
        ),
        (lambda b: replace(b, labels=b.labels + 1000), IndexError, "expected an id below V = 37"),
    ],
)
def test_bad_input_is_named(
    batch: Batch, heads: Heads, change: Callable[[Batch], Batch], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(change(batch), heads)


def test_a_bias_of_the_wrong_shape_is_named(batch: Batch, heads: Heads) -> None:
    heads.bias = nn.Parameter(torch.zeros(VOCAB - 1, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"bias has shape \[36\], expected \[V\] = \[37\]"):
        run(batch, heads)


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_items_in_batch": "12"}, TypeError, r"num_items_in_batch is '12' \(str\); expected a number"),
        (
            {"num_items_in_batch": torch.ones(2)},
            ValueError,
            r"num_items_in_batch has shape \[2\], expected one value",
        ),
        ({"num_sbo_items": torch.tensor(True)}, TypeError, "num_sbo_items has dtype torch.bool"),
        ({"num_sbo_items": -1}, ValueError, "num_sbo_items is -1.0, expected the number of targets"),
        (
            {"num_sbo_items": torch.ones((), device="meta")},
            ValueError,
            "num_sbo_items is on meta, expected cpu",
        ),
        ({"sbo_weight": None}, TypeError, "sbo_weight is None; expected a number"),
        ({"label_smoothing": 1.0}, ValueError, "label_smoothing is 1.0"),
        ({"max_rows": 1.5}, TypeError, r"max_rows is 1\.5 \(float\); expected an int"),
        ({"max_rows": 3}, ValueError, "max_rows is 3, expected at least 12"),
        ({"max_rows": 2**62}, ValueError, "max_rows is 4611686018427387904, expected .* below 2"),
        ({"impl": "slow"}, ValueError, "impl is 'slow'"),
    ],
)
def test_bad_options_are_named(
    batch: Batch, heads: Heads, impl: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run(batch, heads, **{"impl": impl} | options)


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize(
    ("name", "function", "error", "message"),
    [
        ("transform", None, TypeError, "transform is None, expected a function"),
        (
            "transform",
            lambda rows: None,
            TypeError,
            r"transform returned None, expected a tensor \[1, R, D\]",
        ),
        ("transform", lambda rows: rows[..., 1:], ValueError, r"transform returned shape \[1, \d+, 11\]"),
        (
            "transform",
            lambda rows: rows.float(),
            TypeError,
            "weight has dtype .*64 and the result of transform",
        ),
        ("boundary_rows", 3, TypeError, r"boundary_rows is 3 \(int\), expected a SpanBoundaryHead"),
        ("boundary_rows", lambda x, *_, **__: x, ValueError, r"boundary_rows returned shape \[4, 14, 12\]"),
        ("boundary_rows", lambda *_, **__: (1, 2), TypeError, "boundary_rows returned a tuple"),
    ],
)
def test_functions_that_return_something_else_are_named(
    batch: Batch,
    heads: Heads,
    impl: str,
    name: str,
    function: Any,
    error: type[Exception],
    message: str,
) -> None:
    functions = {"transform": heads.transform, "boundary_rows": heads.sbo} | {name: function}
    with pytest.raises(error, match=message):
        ops.span_pretraining_loss(
            *vars(batch).values(), weight=heads.weight, bias=heads.bias, impl=impl, **functions
        )


@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_a_transform_out_of_float64_is_named(batch: Batch, heads: Heads, impl: str) -> None:
    """It, and not what is computed of x before it in float64."""
    message = "transform returned torch.float32 for rows of x in torch.float64"
    with pytest.raises(TypeError, match=message):
        ops.span_pretraining_loss(
            batch.x,
            batch.labels,
            batch.masked_positions,
            transform=lambda rows: heads.transform(rows).float(),
            weight=heads.weight.float(),
            bias=None,
            impl=impl,
        )


def test_a_learnable_sbo_weight_gets_its_gradient(batch: Batch, heads: Heads) -> None:
    sbo_weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    output = run(batch, heads, sbo_weight=sbo_weight)
    torch.testing.assert_close(torch.autograd.grad(output.loss, sbo_weight)[0], output.sbo_loss)


def test_boundaries_need_a_head(batch: Batch, heads: Heads) -> None:
    with pytest.raises(ValueError, match="boundary_rows is None, expected a SpanBoundaryHead"):
        ops.span_pretraining_loss(
            **vars(batch), transform=heads.transform, weight=heads.weight, bias=heads.bias
        )


@pytest.mark.parametrize("impl", ["fused", "reference"])
def test_a_closure_for_the_boundaries_gets_what_is_promised(batch: Batch, heads: Heads, impl: str) -> None:
    """`max_rows` only where the caller gives one; the rows of x then come from x itself."""
    given = []

    def closure(x: Tensor, masked: Tensor, left: Tensor, right: Tensor, **options: Any) -> Tensor:
        given.append(options)
        return heads.sbo(x, masked, left, right, **options)

    def gradients(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, [batch.x, *heads.parameters()])

    expected = gradients(run(batch, heads, impl=impl).loss)
    for options in ({}, {"max_rows": 14}):
        loss = ops.span_pretraining_loss(
            *vars(batch).values(),
            transform=heads.transform,
            weight=heads.weight,
            bias=heads.bias,
            boundary_rows=closure,
            sbo_bias=heads.sbo.bias,
            impl=impl,
            **options,
        ).loss
        assert given.pop() == {"impl": impl, **options}
        torch.testing.assert_close(gradients(loss), expected, rtol=1e-10, atol=1e-10)
