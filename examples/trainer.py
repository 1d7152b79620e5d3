# SPDX-License-Identifier: Apache-2.0
"""transformers' Trainer: gradient accumulation with exact counts, both heads' losses in evaluation, a checkpoint."""

from beginning import begin, parse, rows_of
from transformers import Trainer, TrainingArguments

from spanbert_ext import DataCollatorForSpanMasking, SpanMaskingCallback, span_metrics


def main() -> None:
    options = parse(__doc__, accumulation=2)
    tokenizer, model, texts = begin(options)
    rows = rows_of(tokenizer, texts)
    collator = DataCollatorForSpanMasking(tokenizer, seed=1)
    trainer = Trainer(
        model,
        TrainingArguments(
            "trainer-output",
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            gradient_accumulation_steps=options.accumulation,
            learning_rate=options.learning_rate,
            logging_steps=5,
            save_strategy="no",
            report_to="none",
        ),
        data_collator=collator,
        train_dataset=rows[64:],
        eval_dataset=rows[:64],
        callbacks=[SpanMaskingCallback(collator)],  # epochs, one evaluation's masks, the SBO's exact count
        compute_metrics=span_metrics,
    )
    trainer.train()
    print(trainer.evaluate())
    trainer.save_model("trainer-output")  # what AutoModel and AutoModelForQuestionAnswering load


if __name__ == "__main__":
    main()
