"""The Trainer of a run: it logs both heads' losses by token."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer

from spanbert_ext.pretrain.optimizer import RunOptimizer
from spanbert_ext.pretrain.options import Options

INDICES = ("masked_positions", "left_boundary", "right_boundary")


class SpanTrainer(RunOptimizer, Trainer):
    """Trainer that logs both heads' losses by token."""

    def __init__(self, *args: Any, options: Options, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.options = options
        self.sbo = options.sbo
        self.tokens_seen = 0.0
        self.evaluation_seconds = 0.0
        self._sums = torch.zeros(7, device=self.args.device)  # six row statistics and the tokens read

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        tokens = inputs["attention_mask"].sum()
        if not self.sbo:
            inputs = {name: value for name, value in inputs.items() if name not in INDICES}
        if not model.training:
            inputs = {**inputs, "return_logits": False}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self._sums[:6] += outputs["row_statistics"].detach().sum(0)  # [B, 6] -> [6]
            self._sums[6] += tokens
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:  # a training log, not an evaluation's or the last summary
            sums = self.accelerator.reduce(self._sums, "sum").tolist()
            logs["mlm_loss"], logs["mlm_accuracy"] = sums[0] / max(sums[1], 1), sums[2] / max(sums[1], 1)
            if self.sbo:
                logs["sbo_loss"], logs["sbo_accuracy"] = sums[3] / max(sums[4], 1), sums[5] / max(sums[4], 1)
            self.tokens_seen += sums[6]
            self._sums.zero_()
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        start = time.perf_counter()
        metrics = super().evaluate(*args, **kwargs)
        self.evaluation_seconds += time.perf_counter() - start
        return metrics
