# SPDX-License-Identifier: Apache-2.0
"""DistributedDataParallel: the step of two processes is that of one with the rows of both.

    torchrun --nproc-per-node 2 examples/two_processes.py

Each process has its own rows, and so its own number of targets: both heads are told the sum of all processes.
"""

import argparse
import os

import torch
from beginning import begin, endless, parse, rows_of
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

from spanbert_ext import DataCollatorForSpanMasking


def train(options: argparse.Namespace) -> None:
    device = (
        torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if torch.cuda.is_available()
        else torch.device("cpu")
    )
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    processes = distributed.get_world_size()
    torch.manual_seed(0)  # the same weights everywhere
    tokenizer, model, texts = begin(options)
    rows = rows_of(tokenizer, texts)
    collator = DataCollatorForSpanMasking(tokenizer, seed=1)
    loader = DataLoader(rows, options.batch_size, sampler=DistributedSampler(rows), collate_fn=collator)
    model = DistributedDataParallel(model.to(device).train())
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
    for step, batch in zip(range(options.steps), endless(loader, collator), strict=False):
        batch = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        counts = torch.stack([(batch["labels"] >= 0).sum(), (batch["left_boundary"] >= 0).sum()])
        distributed.all_reduce(counts)
        loss = model(**batch, num_items_in_batch=counts[0], num_sbo_items=counts[1]).loss  # a part of the sum
        (loss * processes).backward()  # gradients are averaged over processes
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().clone()
        distributed.all_reduce(total)
        if distributed.get_rank() == 0 and (step % 5 == 0 or step + 1 == options.steps):
            print(f"step {step} loss {total:.3f}", flush=True)


def main() -> None:
    train(parse(__doc__))  # the wrapped model is gone before the processes' group is, which gloo wants
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
