# SPDX-License-Identifier: Apache-2.0
"""A stream of `datasets`, tokenized as it is read: load_dataset(..., streaming=True) or any IterableDataset.

In several processes accelerate lets the first one read and sends the others their share, which needs rows of one
length; `dispatch_batches=False` lets every process read its own rows, of any length.
"""

from beginning import begin, parse
from datasets import IterableDataset
from transformers import Trainer, TrainingArguments

from spanbert_ext import DataCollatorForSpanMasking, SpanMaskingCallback


def main() -> None:
    options = parse(__doc__)
    tokenizer, model, texts = begin(options)

    def paragraphs():  # stands for load_dataset("text", data_files=..., split="train", streaming=True)
        yield from ({"text": text} for text in texts)

    def tokenize(rows: dict) -> dict:
        return tokenizer(rows["text"], truncation=True, max_length=64)

    stream = IterableDataset.from_generator(paragraphs).shuffle(seed=1, buffer_size=256)
    stream = stream.map(tokenize, batched=True, remove_columns=["text"])
    collator = DataCollatorForSpanMasking(tokenizer, seed=1)
    trainer = Trainer(
        model,
        TrainingArguments(
            "streaming-output",
            max_steps=options.steps,  # a stream has no length
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            accelerator_config={"dispatch_batches": False},
            logging_steps=5,
            save_strategy="no",
            report_to="none",
        ),
        data_collator=collator,
        train_dataset=stream,
        callbacks=[SpanMaskingCallback(collator)],
    )
    trainer.train()


if __name__ == "__main__":
    main()
