# SPDX-License-Identifier: Apache-2.0
"""The optimizer of a run: AdamW as the paper says, or as Google's BERT has it, without the correction of its bias."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from spanbert_ext.pretrain.settings.options import Options


class UncorrectedAdamW(Optimizer):
    """AdamW of Google's BERT: the moments begin at zero and nothing makes up for it, so that the first updates are
    larger than Adam's: for betas of 0.9 and 0.999 by 3.2 times in the first one and 6.6 times in the 12th. A warm-up
    makes up for it (`largest_excess`).

    m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  p -= lr (m / (sqrt(v) + eps) + weight_decay p)

    State of each parameter: `exp_avg`, `exp_avg_sq` of its shape and dtype. Sparse gradients raise RuntimeError."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        expected = {
            "lr": (lr, 0 <= lr, "at least 0"),
            "betas": (betas, all(0 <= beta < 1 for beta in betas), "two numbers in [0, 1)"),
            "eps": (eps, 0 < eps, "above 0"),
            "weight_decay": (weight_decay, 0 <= weight_decay, "at least 0"),
        }
        for name, (value, right, what) in expected.items():
            if not right:
                raise ValueError(f"{name} is {value}, expected {what}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_place: dict[Any, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_place.setdefault((parameter.device, parameter.dtype), []).append(parameter)
            for parameters in by_place.values():
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """parameters: of one device and dtype, each with a gradient."""
        gradients = [parameter.grad for parameter in parameters]
        if any(gradient.is_sparse for gradient in gradients):
            raise RuntimeError("UncorrectedAdamW takes no sparse gradients")
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                }
        means = [self.state[parameter]["exp_avg"] for parameter in parameters]
        squares = [self.state[parameter]["exp_avg_sq"] for parameter in parameters]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, group["eps"])
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_addcdiv_(parameters, means, roots, -group["lr"])


def largest_excess(beta2: float, warmup_steps: int, max_steps: int, beta1: float = 0.9) -> tuple[float, int]:
    """By how much the largest of the uncorrected updates exceeds the corrected ones at the peak rate, and its number.

    `rate(t) / peak * (1 - b1^t) / sqrt(1 - b2^t)` for updates t = 1, 2, ..., where all gradients are about as large;
    the rate rises over `warmup_steps` from 0, as transformers' linear schedule, whose decay is left out."""
    forgotten = round(10 / (1 - beta2))  # updates after which the moments do not show where they began
    last = min(max_steps, warmup_steps + 1 + forgotten)
    t = np.arange(1, last + 1)
    rate = np.minimum(1, (t - 1) / max(1, warmup_steps)) if warmup_steps else np.ones(last)
    excess = rate * (1 - beta1**t) / np.sqrt(1 - beta2**t)
    return float(excess.max()), int(excess.argmax()) + 1


class RunOptimizer:
    """Mixin in front of a Trainer with an attribute `options`: it takes the run's optimizer and what it decays."""

    options: Options

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        if self.options.decay_all:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        if not self.options.adam_bias_correction:
            self.optimizer_cls_and_kwargs = (UncorrectedAdamW, adam_options(self.options))
        return super().create_optimizer(model)


def adam_options(options: Options) -> dict[str, Any]:
    """Keyword arguments of the optimizer's constructor; weight decay comes with the groups of parameters."""
    return {"lr": options.learning_rate, "betas": (0.9, options.adam_beta2), "eps": options.adam_epsilon}
