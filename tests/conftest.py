# SPDX-License-Identifier: Apache-2.0
"""What all tests share: no network, fixed random states, the CUDA marker, one table of tolerances."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cuda_code import skip_without_cuda

# Set before any test module imports a Hugging Face library. Tests neither need nor may use the network.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
# torch's cache of compiled graphs knows an operator by name alone: it would answer with the shapes of another build.
torch.compiler.config.force_disable_caches = True

# Processes that share the cores share the threads; so do those that they start.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))

# How far the fused and the plain implementation may lie apart where both compute in the dtype of the key.
# Tests that judge against float64 measure the error of both and need no number from here.
TOLERANCES = {
    # The project's promise, in losses and gradients of order 1; sums of 1e3 terms leave about 1e-13.
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    # 2^-24 = 6e-8 per operation; the order of sums of 1e2 to 1e3 terms differs, and exp and erf by 2 ulp.
    torch.float32: {"rtol": 1e-4, "atol": 1e-5},
    # Both round their results to 11 bits once, and intermediates at different places: a few times 2^-11 = 5e-4.
    torch.float16: {"rtol": 4e-3, "atol": 2e-3},
    # The same with 8 bits: a few times 2^-8 = 4e-3.
    torch.bfloat16: {"rtol": 3e-2, "atol": 2e-2},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--hostile-inputs", type=int, default=800, help="inputs of test_hostile_inputs.py")
    parser.addoption("--hostile-seed", type=int, default=0, help="the seed that they are made from")


def pytest_configure(config: pytest.Config) -> None:
    """Caches of the Hugging Face libraries go to a folder of this process, and away with it."""
    folder = tempfile.mkdtemp(prefix="spanbert-ext-tests-")
    os.environ["HF_HOME"] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    # A shell starts what it puts into the background with signals ignored; tests send them.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes do not name a test: what is packed may hold the time, and all processes must agree on the names."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_finish() -> None:
    """What the tests import lives to their end: no collection of garbage looks at it again, and Trainer's are many."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    skip_without_cuda(item)


@pytest.fixture
def tolerance() -> dict[torch.dtype, dict[str, float]]:
    """`torch.testing.assert_close(fused, plain, **tolerance[dtype])`."""
    return TOLERANCES


@pytest.fixture
def rows_computed(monkeypatch: pytest.MonkeyPatch) -> Callable[[torch.nn.Module], list[int]]:
    """`rows_computed(model)`: how many rows go through the last feed-forward network from now on, call by call.

    Without a hook: a module with hooks computes all rows.
    """

    from transformers.models.bert.modeling_bert import BertIntermediate

    def watch(model: torch.nn.Module) -> list[int]:
        counts: list[int] = []
        watched, forward = model.bert.encoder.layer[-1].intermediate, BertIntermediate.forward

        def counting(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
            if module is watched:
                counts.append(x.shape[:-1].numel())
            return forward(module, x)

        monkeypatch.setattr(BertIntermediate, "forward", counting)
        return counts

    return watch


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that from_pretrained does not initialise holds rubbish, not a fresh process's zeros."""
    for name in ("empty_like", "empty"):
        make = getattr(torch, name)

        def poison(*args, make=make, **kwargs):
            x = make(*args, **kwargs)
            return x if x.is_meta else x.fill_(77)

        monkeypatch.setattr(torch, name, poison)


@pytest.fixture(autouse=True)
def _fixed_random_states() -> None:
    """No test depends on the ones before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
