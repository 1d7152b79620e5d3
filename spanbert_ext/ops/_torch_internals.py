# SPDX-License-Identifier: Apache-2.0
"""The questions about torch's state that no public function answers: one function each, tested one by one.

A torch release that changes one of these names fails tests/ops/test_torch_internals.py, and nothing else needs reading.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch._C import _functorch
from torch.autograd import forward_ad


def backward_keeps_graph() -> bool:
    """Whether the running backward pass was started with `retain_graph=True`.

    Only then may saved tensors be read again. The argument of `backward` is not passed on to an operator's backward.
    """
    return torch._C._autograd._get_current_graph_task_keep_graph()


def in_dispatch_mode() -> bool:
    """Whether a `TorchDispatchMode` is active: what runs is then recorded, and may run again later.

    There is no public question for "any mode"; a mode class knows only its own instances.
    """
    return torch._C._len_torch_dispatch_stack() > 0


def is_batched(tensor: Tensor) -> bool:
    """Whether the tensor is one of vmap's: of `torch.func.vmap`, or of `is_grads_batched=True`.

    `torch.func` gives no way to tell them from plain tensors.
    """
    return _functorch.is_legacy_batchedtensor(tensor) or _functorch.is_batchedtensor(tensor)


def forward_mode_is_on() -> bool:
    """Whether a level of forward-mode differentiation is entered, by `dual_level`, `torch.func.jvp` or `jacfwd`.

    The public `unpack_dual` answers for one tensor and costs a view of it; torch.compile can trace this one.
    """
    return forward_ad._current_level >= 0


def in_transform() -> bool:
    """Whether a transform of torch.func is running: vmap, grad, vjp, jvp or functionalize."""
    return _functorch.peek_interpreter_stack() is not None


def layers(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor and what the transforms of torch.func have wrapped in it, from the outside in.

    Each transform sees only its own layer: `requires_grad` of a tensor inside `vmap` is False where the batch outside
    does require it. `torch.func.debug_unwrap` gives the innermost one alone.
    """
    yield tensor
    while _functorch.is_functorch_wrapped_tensor(tensor):
        tensor = _functorch.get_unwrapped(tensor)
        yield tensor


def differentiated_by_transform(tensor: Tensor) -> bool:
    """Whether a running `torch.func.grad` (`vjp`, `jacrev`) differentiates with respect to the tensor."""
    return any(_functorch.is_gradtrackingtensor(layer) and layer.requires_grad for layer in layers(tensor))
