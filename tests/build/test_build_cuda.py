# SPDX-License-Identifier: Apache-2.0
"""The CUDA side of the build, as far as it shows without a GPU: messages of a build with kernels and of one without."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import boundary_samples
import cuda_code
import pytest
import span_mask_samples
import torch
from configured_build import configure, needs_sources
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from spanbert_ext import build_info, ops
from spanbert_ext.ops import _common

HAS_KERNELS = bool(build_info()["cuda_kernels"])
ROOT = Path(__file__).resolve().parents[2]


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
    monkeypatch.setattr(cuda_code, "build_info", lambda: info)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert cuda_code.missing_cuda() == reason


# --- A CUDA tensor in a build without CUDA kernels ----------------------------------------------------------------


def call_span_mask(move: Callable[[Tensor], Tensor]) -> None:
    call = span_mask_samples.sample_inputs(rows=2, length=10)
    ops.span_mask(**{name: move(x) if isinstance(x, Tensor) else x for name, x in call.items()})


def call_boundary_mlp(move: Callable[[Tensor], Tensor]) -> None:
    ops.boundary_mlp(*map(move, boundary_samples.small().tensors()))


def call_vocab_ce(move: Callable[[Tensor], Tensor]) -> None:
    h, weight, targets = torch.ones(3, 4), torch.ones(5, 4), torch.tensor([0, 1, 2])
    ops.vocab_ce(move(h), move(weight), None, move(targets), move(torch.ones(3)))


@pytest.mark.parametrize("call", [call_span_mask, call_boundary_mlp, call_vocab_ce])
def test_cuda_tensors_without_kernels_are_refused_with_a_remedy(
    call: Callable[[Callable[[Tensor], Tensor]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_common, "missing_cuda_kernels", lambda: "nvcc was not found")
    operator = call.__name__.removeprefix("call_")
    first = {"span_mask": "input_ids", "boundary_mlp": "x", "vocab_ce": "h"}[operator]
    with FakeTensorMode(), pytest.raises(RuntimeError) as error:
        call(lambda x: torch.empty(x.shape, dtype=x.dtype, device="cuda"))
    message = str(error.value)
    assert message.startswith(f"{operator}: {first} is on cuda")
    for part in (
        "no CUDA kernels (nvcc was not found)",
        "SPANBERT_EXT_CUDA=ON pip install",
        "impl='reference'",
    ):
        assert part in message


@pytest.mark.skipif(HAS_KERNELS, reason="this build has CUDA kernels")
def test_the_dispatcher_finds_no_cuda_implementation_without_kernels() -> None:
    """The raw operator, called with CUDA tensors: never the CPU kernel on pointers to a GPU's memory."""
    operator = torch.ops.spanbert_ext.vocab_ce.default
    args = (torch.ones(3, 4), torch.ones(5, 4), None, [0], torch.tensor([0, 1, 2]), torch.ones(3))
    options = (torch.float32, 0.0, None, True, True, False)
    operator(*args, *options)  # the arguments are right
    with pytest.raises(NotImplementedError, match=r"Could not run 'spanbert_ext::vocab_ce'.*'CUDA'.*CPU"):
        cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
        operator.redispatch(cuda, *args, *options)


# --- Operators for tuning ------------------------------------------------------------------------------------------


@needs_sources
def test_tuning_needs_cuda_code(tmp_path: Path) -> None:
    done = configure(tmp_path, "-DSPANBERT_EXT_CUDA=OFF", "-DSPANBERT_EXT_TUNING=ON")
    assert done.returncode != 0
    message = " ".join(done.stderr.split())
    assert "SPANBERT_EXT_TUNING=ON needs CUDA kernels, but switched off by SPANBERT_EXT_CUDA=OFF" in message


@needs_sources
@pytest.mark.parametrize("tuning", ["OFF", "ON"])
def test_tuning_sources_are_compiled_only_when_asked_for(tuning: str, tmp_path: Path) -> None:
    done = configure(tmp_path, "-DSPANBERT_EXT_CUDA=EMULATE", f"-DSPANBERT_EXT_TUNING={tuning}")
    assert done.returncode == 0, done.stderr
    rules = (tmp_path / "build.ninja").read_text()
    sources = sorted(path.name for path in (ROOT / "csrc" / "tuning").glob("*.c*"))
    built = sorted(set(re.findall(r"csrc/tuning/(\S+?)\.o\b", rules)))
    assert built == (sources if tuning == "ON" else [])
    assert ("-DSPANBERT_EXT_TUNING" in rules) == (tuning == "ON")


# --- Libraries that a build needs where it runs ---------------------------------------------------------------------

SYMBOLS = """
0000000000000000      DF *UND*  0000000000000000 (GLIBC_2.2.5) memcpy
0000000000000000      DF *UND*  0000000000000000 (GLIBC_2.32) __libc_single_threaded
0000000000000000      DF *UND*  0000000000000000 (GLIBCXX_3.4.9) _ZNSo9_M_insertIdEERSoT_
0000000000000000      DF *UND*  0000000000000000 (GLIBCXX_3.4.29) _ZSt28__throw_bad_array_new_lengthv
0000000000000000  w   D  *UND*  0000000000000000  Base        __gmon_start__
00000000000b1e10 g    DF .text  0000000000000042 (GLIBC_2.99) defined_here
"""


@needs_sources
def test_the_newest_needed_libraries_are_compared_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from library_needs import find_faults, newest_needed

    needed = newest_needed(SYMBOLS)
    assert needed == {"GLIBC": "2.32", "GLIBCXX": "3.4.29"}
    assert find_faults(needed, {"GLIBC": "2.39", "GLIBCXX": "3.4.33"}) == []
    assert find_faults(needed, {"GLIBC": "2.4", "GLIBCXX": "3.4.3"}) == [
        "needs GLIBC 2.32, there is 2.4",
        "needs GLIBCXX 3.4.29, there is 3.4.3",
    ]
