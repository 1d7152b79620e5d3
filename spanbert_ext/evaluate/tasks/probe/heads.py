# SPDX-License-Identifier: Apache-2.0
"""The classifiers that probes train: one hidden layer, or none."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from spanbert_ext.evaluate.tasks.probe.options import ProbeOptions

_WARMUP = 0.1  # of the updates


def features_of(states: Tensor, pairs: bool) -> Tensor:
    """What a classifier reads [N, F] of states [N, R, H]: all of them, and of pairs the products of the first half with
    the second."""
    flat = states.flatten(1)
    if not pairs:
        return flat
    half = states.shape[1] // 2
    return torch.cat([flat, (states[:, :half] * states[:, half:]).flatten(1)], dim=1)


def train_and_score(
    train: Tensor,
    answers: Tensor,
    test: Tensor,
    classes: int,
    several: bool,
    options: ProbeOptions,
    seed: int,
    progress: Callable[[float], None],
) -> tuple[Tensor, float]:
    """Scores [M, C] of the test items, and the last epoch's mean loss. train, test: features [N, F], [M, F]. answers:
    [N] numbers of classes, or [N, C] of 0 and 1 where an item may have several.

    Features are brought to mean 0 and deviation 1 on the training items, so that encoders of any scale are asked by the
    same rate."""
    mean, deviation = train.mean(0), train.std(0, correction=0)
    scale = 1 / torch.where(
        deviation > 1e-6 * (1 + mean.abs()), deviation, torch.inf
    )  # a constant says nothing
    train, test = (train - mean) * scale, (test - mean) * scale
    torch.manual_seed(seed)
    head = _head(train.shape[1], classes, options)
    _start_constant(head[-1], answers.cpu(), several)
    head.to(train.device)
    order = torch.Generator().manual_seed(seed)
    per_epoch = math.ceil(len(train) / options.batch_size)
    updates = max(1, math.ceil(options.epochs * per_epoch))
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    warm = max(1, round(_WARMUP * updates))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (updates - step) / max(1, updates - warm))
    )
    loss_of = nn.functional.binary_cross_entropy_with_logits if several else nn.functional.cross_entropy
    losses: list[Tensor] = []
    for update in range(updates):
        if update % per_epoch == 0:
            rows = torch.randperm(len(train), generator=order).to(train.device)
            losses = []
        own = rows[(update % per_epoch) * options.batch_size :][: options.batch_size]
        loss = loss_of(head(train[own]), answers[own])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        progress((update + 1) / updates)
    head.eval()
    with torch.inference_mode():
        return head(test).nan_to_num(-torch.inf), float(torch.stack(losses).mean())


def _head(features: int, classes: int, options: ProbeOptions) -> nn.Sequential:
    if not options.head_size:
        return nn.Sequential(nn.Linear(features, classes))
    return nn.Sequential(
        nn.Linear(features, options.head_size),
        nn.GELU(),
        nn.Dropout(options.head_dropout),
        nn.Linear(options.head_size, classes),
    )


@torch.no_grad()
def _start_constant(last: nn.Linear, answers: Tensor, several: bool) -> None:
    """A classifier begins with the shares of the answers, whatever the states: what it then learns is theirs."""
    count = answers.sum(0) if several else torch.bincount(answers, minlength=last.out_features)
    share = (count + 0.5) / (len(answers) + 1)
    last.weight.zero_()
    last.bias.copy_(torch.logit(share) if several else share.log())
