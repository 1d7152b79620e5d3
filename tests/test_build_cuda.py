"""The CUDA side of the build, as far as it shows without a GPU: what a build with kernels and one without say."""

from __future__ import annotations

import re
from collections.abc import Callable

import boundary_samples
import conftest
import pytest
import test_span_mask
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from spanbert_ext import build_info, ops
from spanbert_ext.ops import _common

HAS_KERNELS = bool(build_info()["cuda_kernels"])


# --- Kernels are in, and what for ---------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_KERNELS, reason=f"no CUDA kernels: {build_info()['cuda_reason']}")
def test_a_build_with_kernels_names_architectures_and_compiler() -> None:
    info = build_info()
    assert re.fullmatch(r"(\d+[af]?(-real|-virtual)? ?)+", str(info["cuda_architectures"]))
    assert str(info["nvcc"]).partition(".")[0] == str(info["torch_cuda"]).partition(".")[0]
    for name in ("span_mask", "boundary_mlp", "boundary_mlp_backward", "vocab_ce"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"spanbert_ext::{name}", "CUDA"), name


# --- CUDA tests do not vanish -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernels", "gpu", "reason"),
    [
        (True, True, None),
        (True, False, "torch.cuda.is_available() is False"),
        (False, True, "this build has no CUDA kernels: nvcc was not found"),
        (False, False, "this build has no CUDA kernels: nvcc was not found"),
    ],
)
def test_the_reason_for_a_skip(
    monkeypatch: pytest.MonkeyPatch, kernels: bool, gpu: bool, reason: str | None
) -> None:
    info = {"cuda_kernels": kernels, "cuda_reason": "" if kernels else "nvcc was not found"}
    monkeypatch.setattr(conftest, "build_info", lambda: info)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert conftest.missing_cuda() == reason


# --- T13: a CUDA tensor in a build without CUDA kernels -----------------------------------------------------------


def call_span_mask(move: Callable[[Tensor], Tensor]) -> None:
    call = test_span_mask.sample_inputs(rows=2, length=10)
    ops.span_mask(**{name: move(x) if isinstance(x, Tensor) else x for name, x in call.items()})


def call_boundary_mlp(move: Callable[[Tensor], Tensor]) -> None:
    ops.boundary_mlp(*map(move, boundary_samples.small().tensors()))


def call_vocab_ce(move: Callable[[Tensor], Tensor]) -> None:
    h, weight, targets = torch.ones(3, 4), torch.ones(5, 4), torch.tensor([0, 1, 2])
    ops.vocab_ce(move(h), move(weight), None, move(targets), move(torch.ones(3)))


@pytest.mark.parametrize("call", [call_span_mask, call_boundary_mlp, call_vocab_ce])
def test_t13_cuda_tensors_without_kernels_are_refused_with_a_remedy(
    call: Callable[[Callable[[Tensor], Tensor]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_common, "missing_cuda_kernels", lambda: "nvcc was not found")
    operator = call.__name__.removeprefix("call_")
    with FakeTensorMode(), pytest.raises(RuntimeError) as error:
        call(lambda x: torch.empty(x.shape, dtype=x.dtype, device="cuda"))
    message = str(error.value)
    assert message.startswith(f"{operator}: input is on cuda")
    for part in (
        "no CUDA kernels (nvcc was not found)",
        "SPANBERT_EXT_CUDA=ON pip install",
        "impl='reference'",
    ):
        assert part in message


@pytest.mark.skipif(HAS_KERNELS, reason="this build has CUDA kernels")
def test_t13_the_dispatcher_finds_no_cuda_implementation_without_kernels() -> None:
    """The raw operator, called with CUDA tensors: never the CPU kernel on pointers to a GPU's memory."""
    operator = torch.ops.spanbert_ext.vocab_ce.default
    args = (torch.ones(3, 4), torch.ones(5, 4), None, [0], torch.tensor([0, 1, 2]), torch.ones(3))
    options = (torch.float32, 0.0, None, True, True, False)
    operator(*args, *options)  # the arguments are right
    with pytest.raises(NotImplementedError, match=r"Could not run 'spanbert_ext::vocab_ce'.*'CUDA'.*CPU"):
        cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
        operator.redispatch(cuda, *args, *options)
