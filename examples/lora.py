# SPDX-License-Identifier: Apache-2.0
"""LoRA by PEFT: adapters in the encoder, while the span-boundary head, which is new, is trained in full."""

import torch
from beginning import begin, endless, parse, rows_of
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader

from spanbert_ext import DataCollatorForSpanMasking


def main() -> None:
    options = parse(__doc__, rank=8)
    tokenizer, model, texts = begin(options)
    adapters = LoraConfig(r=options.rank, target_modules=["query", "value"], modules_to_save=["sbo"])
    model = get_peft_model(model, adapters)
    model.print_trainable_parameters()
    collator = DataCollatorForSpanMasking(tokenizer, seed=1)
    loader = DataLoader(rows_of(tokenizer, texts), options.batch_size, shuffle=True, collate_fn=collator)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.learning_rate)
    model.train()
    for step, batch in zip(range(options.steps), endless(loader, collator), strict=False):
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 5 == 0 or step + 1 == options.steps:
            print(f"step {step} loss {loss:.3f}")
    merged = model.merge_and_unload()  # an ordinary model again, to save or to go on with
    merged.save_pretrained("lora-output")


if __name__ == "__main__":
    main()
