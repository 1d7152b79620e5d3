# SPDX-License-Identifier: Apache-2.0
"""PyTorch Lightning: a module around the model, and a callback that tells the collator the epoch."""

import pytorch_lightning as pl  # or: import lightning as pl
import torch
from beginning import begin, parse, rows_of
from torch.utils.data import DataLoader

from spanbert_ext import DataCollatorForSpanMasking, SpanBertForPreTraining


class SpanBertModule(pl.LightningModule):
    def __init__(self, model: SpanBertForPreTraining, learning_rate: float) -> None:
        super().__init__()
        self.model = model
        self.learning_rate = learning_rate

    def training_step(self, batch: dict, index: int) -> torch.Tensor:
        output = self.model(**batch)
        self.log_dict({"mlm_loss": output.mlm_loss, "sbo_loss": output.sbo_loss}, prog_bar=True)
        if self.global_step % 5 == 0:
            self.print(f"step {self.global_step} loss {output.loss:.3f}")
        return output.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)


class MaskingEpoch(pl.Callback):
    def __init__(self, collator: DataCollatorForSpanMasking) -> None:
        self.collator = collator

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.collator.set_epoch(trainer.current_epoch)


def main() -> None:
    options = parse(__doc__)
    tokenizer, model, texts = begin(options)
    collator = DataCollatorForSpanMasking(tokenizer, seed=1)
    loader = DataLoader(rows_of(tokenizer, texts), options.batch_size, shuffle=True, collate_fn=collator)
    trainer = pl.Trainer(
        max_steps=options.steps,
        callbacks=[MaskingEpoch(collator)],
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(SpanBertModule(model.train(), options.learning_rate), loader)


if __name__ == "__main__":
    main()
