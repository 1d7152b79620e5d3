# SPDX-License-Identifier: Apache-2.0
"""What an update of a system costs: `python -m support.evidence.cost RUN FILE`.

The model, rows, masks and objective of a run of spanbert-pretrain, forward, backward and optimizer, in a process of its
own: tokens a second over the updates but the first ones, and the most memory that the process had.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from spanbert_ext.masking.collator import DataCollatorForSpanMasking
from spanbert_ext.pretrain.run.checkpoints import RUN_FILE
from spanbert_ext.pretrain.run.data import load_data
from spanbert_ext.pretrain.run.measured_step import peak_memory
from spanbert_ext.pretrain.run.starting_model import build_model, check_model
from spanbert_ext.pretrain.settings.masking_options import collator_options
from spanbert_ext.pretrain.settings.options import load_options
from support.report import write_json

UPDATES, WARM_UP = 24, 4


def measure(run: Path, device: torch.device) -> dict[str, float]:
    """`tokens_per_second`, the median over the updates, and `peak_bytes`: of the process, on a GPU of its memory."""
    options, _ = load_options(run / RUN_FILE, {})
    data = load_data(options, run)
    rows, lengths = data.train, data.train.lengths
    # a model of random weights, like that of the run, whose biases do not matter here
    model = build_model(options, check_model(options), data.tokenizer, np.ones(len(data.tokenizer)))
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
    collate = DataCollatorForSpanMasking(data.tokenizer, **collator_options(options)).evaluation()
    order = np.random.default_rng(0).integers(len(rows), size=UPDATES * options.tokens_per_batch // 16)
    rates = []
    for _ in range(UPDATES):
        count = int(np.searchsorted(np.cumsum(lengths[order]), options.tokens_per_batch, side="right"))
        chosen, order = order[:count], order[count:]
        begin = time.perf_counter()
        batch = collate([rows[int(row)] for row in chosen])
        batch = {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
        if not options.sbo:
            batch = {name: x for name, x in batch.items() if not name.endswith("_boundary")}
        with torch.autocast(device.type, torch.bfloat16, enabled=bool(options.bf16)):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rates.append(int(lengths[chosen].sum()) / (time.perf_counter() - begin))
    return {"tokens_per_second": statistics.median(rates[WARM_UP:]), "peak_bytes": peak_memory(device)[0]}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    given.file.parent.mkdir(parents=True, exist_ok=True)
    write_json(given.file, measure(given.run, torch.device(given.device)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
