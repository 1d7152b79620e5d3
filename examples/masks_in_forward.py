# SPDX-License-Identifier: Apache-2.0
"""Masks made by the model itself, on its own device: the loader gives plain text, and no collator of this package."""

import torch
from beginning import begin, parse, rows_of
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding

from spanbert_ext import SpanMasker


def main() -> None:
    options = parse(__doc__, epochs=1)
    tokenizer, model, texts = begin(options)
    model.set_masker(SpanMasker.from_tokenizer(tokenizer), seed=1)
    rows = rows_of(tokenizer, texts)
    held_out, rows = rows[: options.batch_size], rows[options.batch_size :]
    collate = DataCollatorWithPadding(tokenizer)
    loader = DataLoader(rows, options.batch_size, shuffle=True, collate_fn=collate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
    model.train()
    for epoch in range(options.epochs):
        for step, batch in zip(range(options.steps), loader, strict=False):
            loss = model(**batch).loss  # every call masks anew
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % 5 == 0 or step + 1 == options.steps:
                print(f"epoch {epoch} step {step} loss {loss:.3f}")
    model.eval()
    with torch.no_grad():
        output = model(**collate(held_out))  # in evaluation always the same masks
        plain = model(**collate(held_out), return_loss=False)  # the text as it is
    print(f"held-out MLM {output.mlm_loss:.3f}, SBO {output.sbo_loss:.3f}; logits {list(plain.logits.shape)}")


if __name__ == "__main__":
    main()
