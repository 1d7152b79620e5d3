# SPDX-License-Identifier: Apache-2.0
"""Shards of spanbert-prepare as a stream, each process its own: no table in the memory or in a cache.

    torchrun --nproc-per-node 2 examples/streaming_shards.py --prepared prepared

Numbers of shards that the number of processes divides let each read whole ones. Needs pip install '.[pretrain]'.
"""

import os

import torch
from beginning import begin, endless, parse
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

from spanbert_ext import DataCollatorForSpanMasking
from spanbert_ext.pretrain.prepare.prepare import PrepareOptions, prepare  # these three are not public
from spanbert_ext.pretrain.prepare.prepared import stream_prepared
from spanbert_ext.pretrain.rows.blocks import pack_sentences

BLOCK = 64


def main() -> None:
    options = parse(__doc__, prepared="prepared")
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.manual_seed(0)
    tokenizer, model, texts = begin(options)
    if not os.path.exists(options.prepared):  # stands for the command spanbert-prepare
        tokenizer.save_pretrained("tokenizer")
        with open("text.txt", "w", encoding="utf-8") as file:
            file.write("\n\n".join(texts))
        prepare(PrepareOptions(["text.txt"], tokenizer="tokenizer", output=options.prepared))

    def blocks(documents: dict) -> dict:
        rows = []
        for tokens, lengths in zip(documents["tokens"], documents["sentence_lengths"], strict=True):
            for start, end in pack_sentences(lengths, BLOCK - 2):
                rows.append([tokenizer.cls_token_id, *tokens[start:end], tokenizer.sep_token_id])
        return {"input_ids": rows}

    stream = split_dataset_by_node(stream_prepared(options.prepared), rank, processes)
    stream = stream.map(blocks, batched=True, batch_size=64, remove_columns=stream.column_names)
    collator = DataCollatorForSpanMasking(tokenizer, seed=1)
    loader = DataLoader(stream.shuffle(seed=1, buffer_size=256), options.batch_size, collate_fn=collator)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=options.learning_rate)
    for step, batch in zip(range(options.steps), endless(loader, collator), strict=False):
        loss = model(**batch).loss  # with several processes: as in two_processes.py
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 5 == 0 or step + 1 == options.steps:
            print(f"process {rank} step {step} loss {loss:.3f}")


if __name__ == "__main__":
    main()
