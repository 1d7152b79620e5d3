# SPDX-License-Identifier: Apache-2.0
"""A loop under accelerate, with gradient accumulation, on any number of processes.

An update is that of one batch of all its rows, because both heads are told how many targets it has:

    python examples/accelerate_loop.py
    accelerate launch examples/accelerate_loop.py --accumulation 4
"""

from contextlib import nullcontext
from itertools import islice

import torch
from accelerate import Accelerator
from beginning import begin, endless, parse, rows_of
from torch.utils.data import DataLoader

from spanbert_ext import DataCollatorForSpanMasking


def main() -> None:
    options = parse(__doc__, accumulation=2)
    accelerator = Accelerator()
    tokenizer, model, texts = begin(options)
    collator = DataCollatorForSpanMasking(tokenizer, seed=1)
    loader = DataLoader(rows_of(tokenizer, texts), options.batch_size, shuffle=True, collate_fn=collator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    model.train()
    stream = endless(loader, collator)
    for step in range(options.steps):
        batches = list(islice(stream, options.accumulation))
        counts = {
            "num_items_in_batch": sum((batch["labels"] >= 0).sum() for batch in batches),
            "num_sbo_items": sum((batch["left_boundary"] >= 0).sum() for batch in batches),
        }
        counts = accelerator.reduce(counts, "sum")  # over processes
        total = torch.zeros((), device=accelerator.device)
        for batch in batches:
            with nullcontext() if batch is batches[-1] else accelerator.no_sync(model):
                loss = model(**batch, **counts).loss  # this batch's share of the sum
                accelerator.backward(
                    loss * accelerator.num_processes
                )  # gradients are averaged over processes
            total += loss.detach()
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 5 == 0 or step + 1 == options.steps:
            accelerator.print(f"step {step} loss {accelerator.reduce(total, 'sum'):.3f}")


if __name__ == "__main__":
    main()
