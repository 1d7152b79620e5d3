"""One process against two (gloo): T1 scaling, and T4, a rank with nothing to predict."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tiny_models import INDICES, assert_close, gradients, make_batch, make_model, one_thread  # noqa: F401
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

CASES = {"equal halves": 6, "unequal parts": 9, "nothing to predict on one rank": 6}
WORLD = 2


def batch_of(case: str) -> dict[str, torch.Tensor]:
    batch = make_batch(12, row_bounds=False)
    if case == "equal halves":
        batch = {name: torch.cat([x[:6], x[:6]]) for name, x in batch.items()}
        batch["input_ids"][:6, 1] = 9  # the same counts, other texts
    if case == "nothing to predict on one rank":
        batch["labels"][6:] = -100
        for name in INDICES:
            batch[name][6:] = -1
    return batch


def train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    for case, first in CASES.items():
        batch = batch_of(case)
        counts = {
            "num_items_in_batch": (batch["labels"] >= 0).sum(),
            "num_sbo_items": (batch["left_boundary"] >= 0).sum(),
        }
        if case == "equal halves":
            del counts["num_sbo_items"]  # all that Trainer knows; exact where the counts are equal
        part = {name: x[:first] if rank == 0 else x[first:] for name, x in batch.items()}
        model = make_model().double()
        parallel = DistributedDataParallel(model)
        loss = parallel(**part, **counts).loss
        (loss * WORLD).backward()  # DDP averages the ranks' gradients, Trainer multiplies the loss for it
        if rank == 0:
            torch.save(gradients(model), Path(folder) / f"{case}.pt")
    distributed.barrier()
    # Destroying a DistributedDataParallel joins gloo's threads while holding the GIL, which one of them may be
    # waiting for (torch 2.13): the results are on disk, so leave without tearing down.
    os._exit(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ddp")
    torch.multiprocessing.spawn(train, (str(folder),), nprocs=WORLD)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_gradient_of_one(folder, case):
    model = make_model().double()
    model(**batch_of(case)).loss.backward()
    assert_close(torch.load(folder / f"{case}.pt"), gradients(model), 1e-10)
