# SPDX-License-Identifier: Apache-2.0
"""A loop in plain PyTorch: the batch goes into the model as it comes out of the collator."""

import torch
from beginning import begin, endless, parse, rows_of
from torch.utils.data import DataLoader

from spanbert_ext import DataCollatorForSpanMasking


def main() -> None:
    options = parse(__doc__)
    tokenizer, model, texts = begin(options)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    collator = DataCollatorForSpanMasking(tokenizer, seed=1)
    loader = DataLoader(rows_of(tokenizer, texts), options.batch_size, shuffle=True, collate_fn=collator)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
    for step, batch in zip(range(options.steps), endless(loader, collator), strict=False):
        batch = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            output = model(**batch)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 5 == 0 or step + 1 == options.steps:  # reading a number waits for the GPU
            print(
                f"step {step} loss {output.loss:.3f} (MLM {output.mlm_loss:.3f}, SBO {output.sbo_loss:.3f})"
            )


if __name__ == "__main__":
    main()
