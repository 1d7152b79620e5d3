# SPDX-License-Identifier: Apache-2.0
"""T12: an operator called directly, with a tensor among dense ones whose memory is none that it may read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from boundary_samples import grad_like, small, some_tokens
from torch import Tensor
from vocab_ce_samples import sample

OPS = torch.ops.spanbert_ext


def calls() -> dict[str, tuple[Callable, tuple]]:
    case, boundary = sample().to(torch.float32), small().to(torch.float32)
    token_rows, grad_rows = some_tokens(boundary, 4)
    ids = torch.full((2, 6), 3)
    positions = torch.tensor([[1, 2], [1, -1]])
    ranks = torch.tensor([[0, 1], [2, -1]])
    one = torch.ones(())
    leaves = [leaf.detach() for leaf in case.leaves()]
    rest = (list(case.first_rows), case.targets, case.row_weight, torch.float32, 0.0, None, True, True, True)
    gradients = (grad_like(boundary).float(), (True, True), token_rows, grad_rows.float())
    return {
        "vocab_ce": (OPS.vocab_ce, (*leaves, *rest)),
        "vocab_ce_gradient_rows": (
            OPS.vocab_ce_gradient_rows,
            (torch.ones(128, 4), torch.arange(3), one, torch.float32),
        ),
        "vocab_ce_scale_": (OPS.vocab_ce_scale_, (torch.ones(3, 4), one)),
        "boundary_mlp": (OPS.boundary_mlp, boundary.forward_arguments(torch.float32, token_rows)),
        "boundary_mlp_backward": (
            OPS.boundary_mlp_backward,
            boundary.backward_arguments(torch.float32, *gradients),
        ),
        "head_targets": (
            OPS.head_targets,
            (ids, positions, positions - 1, one, one, 1.0, torch.float32, None),
        ),
        "head_statistics": (
            OPS.head_statistics,
            (torch.ones(7), torch.arange(7), torch.arange(7), ranks, True),
        ),
        "span_mask": (
            span_mask,
            (
                ids,
                torch.ones(9, dtype=torch.uint8),
                torch.arange(9),
                torch.zeros((), dtype=torch.int64),
                torch.zeros((), dtype=torch.int64),
                torch.ones(2, 6, dtype=torch.int64),
                torch.arange(2),
                torch.full((2, 1, 2), -1),
            ),
        ),
    }


def span_mask(*tensors: Tensor) -> tuple[Tensor, ...]:
    *required, attention_mask, sample_ids, candidates = tensors
    return OPS.span_mask(
        *required,
        attention_mask=attention_mask,
        sample_ids=sample_ids,
        candidates=candidates,
        vocab_size=None,
        mask_token_id=4,
        pad_token_id=-1,
        ratio=0.2,
        p=0.2,
        max_words=10,
        position_slots=20,
        mask_share=0.8,
        random_share=0.1,
        replace_per_token=False,
        fill_after_candidates=True,
        candidate_share=1.0,
    )


def quantised(tensor: Tensor) -> Tensor:
    return torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.quint8)


# A nested tensor of one component has the shape [1, ...] and contiguous memory: a plausible thing to read.
CHANGES = {
    "sparse": Tensor.to_sparse,
    "quantised": quantised,
    "nested": lambda tensor: torch.nested.as_nested_tensor([tensor]),
}


def changed_calls() -> Iterator[tuple[str, int, str]]:
    for name, (_, arguments) in calls().items():
        for index, argument in enumerate(arguments):
            if isinstance(argument, Tensor):
                yield from ((name, index, change) for change in CHANGES)


@pytest.mark.parametrize("name", list(calls()))
def test_the_calls_are_good_as_they_are(name: str) -> None:
    operator, arguments = calls()[name]
    operator(*arguments)


@pytest.mark.parametrize(("name", "index", "change"), list(changed_calls()))
def test_a_tensor_that_is_not_dense_raises(name: str, index: int, change: str) -> None:
    operator, arguments = calls()[name]
    given = list(arguments)
    given[index] = CHANGES[change](given[index])
    with pytest.raises((NotImplementedError, TypeError, ValueError, RuntimeError)):
        operator(*given)
