# SPDX-License-Identifier: Apache-2.0
"""The optimizer of a run: Google's AdamW without bias correction by its formula, and which parameters decay."""

from __future__ import annotations

import copy
import io
from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_config
from torch import nn

pytest.importorskip("transformers")

from transformers import Trainer, TrainingArguments

from spanbert_ext.models.pretraining import SpanBertForPreTraining
from spanbert_ext.pretrain.run.optimizer import RunOptimizer, UncorrectedAdamW, largest_excess
from spanbert_ext.pretrain.settings.options import Options


def by_hand(parameter, gradients, lr, betas, eps, weight_decay):
    """In float64, from the formula."""
    p, m, v = parameter.double(), 0.0, 0.0
    for gradient in gradients:
        g = gradient.double()
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        p = p - lr * (m / (v.sqrt() + eps) + weight_decay * p)
    return p


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_updates_follow_the_formula(weight_decay):
    torch.manual_seed(0)
    options = {"lr": 0.05, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": weight_decay}
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        weights = [nn.Parameter(torch.randn(3, 5, dtype=dtype)), nn.Parameter(torch.randn(7, dtype=dtype))]
        gradients = [[torch.randn_like(weight) * 10**-k for k in range(5)] for weight in weights]
        expected = [
            by_hand(w.detach().clone(), g, **options) for w, g in zip(weights, gradients, strict=True)
        ]
        optimizer = UncorrectedAdamW(weights, **options)
        for step in range(5):
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient[step]
            optimizer.step()
        for weight, value in zip(weights, expected, strict=True):
            torch.testing.assert_close(weight.detach().double(), value, rtol=tolerance, atol=tolerance)


def test_the_first_update_is_larger_than_adams():
    """0.1 g / sqrt(0.001 g^2) = 3.16 times."""
    steps = []
    for kind in (UncorrectedAdamW, torch.optim.AdamW):
        weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
        weight.grad = torch.full((1,), 0.5, dtype=torch.float64)
        kind([weight], lr=1e-3, betas=(0.9, 0.999), eps=1e-12, weight_decay=0.0).step()
        steps.append(1 - weight.item())
    assert steps[0] / steps[1] == pytest.approx(10**0.5, rel=1e-6)


@pytest.mark.parametrize(("warmup", "steps"), [(0, 60), (20, 200), (1000, 1500)])
def test_the_largest_excess_is_that_of_the_two_optimizers(warmup, steps):
    """Gradients of one size: a corrected update is the rate, so an uncorrected one at its rate tells the excess."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = UncorrectedAdamW([weight], lr=1.0, betas=(0.9, 0.999), eps=1e-12, weight_decay=0.0)
    warm = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, step / max(1, warmup) or not warmup)
    )
    updates = []
    for _ in range(steps):
        before = weight.item()
        weight.grad = torch.full((1,), 0.5, dtype=torch.float64)
        optimizer.step()
        warm.step()
        updates.append(before - weight.item())
    excess, update = largest_excess(0.999, warmup, steps)
    assert excess == pytest.approx(max(updates), rel=1e-6)
    assert update == updates.index(max(updates)) + 1


def test_a_saved_state_goes_on_bit_for_bit():
    torch.manual_seed(0)
    gradients = torch.randn(6, 4)
    weight = nn.Parameter(torch.randn(4))
    optimizer = UncorrectedAdamW([weight], lr=0.1)
    for gradient in gradients[:3]:
        weight.grad = gradient
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = copy.deepcopy(weight)
    resumed = UncorrectedAdamW([again], lr=0.5)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for gradient in gradients[3:]:
        weight.grad, again.grad = gradient, gradient.clone()
        optimizer.step()
        resumed.step()
    assert torch.equal(weight, again)


def test_parameters_without_a_gradient_stay_and_a_closure_is_called():
    weight, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = UncorrectedAdamW([weight, idle])

    def closure():
        loss = weight.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2
    assert torch.equal(idle, torch.ones(2)) and not torch.equal(weight, torch.ones(2))
    weight.grad = torch.ones(2).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"lr": -1.0}, "lr is -1.0"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\)"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
    ],
)
def test_bad_options_are_named(option, message):
    with pytest.raises(ValueError, match=message):
        UncorrectedAdamW([nn.Parameter(torch.ones(1))], **option)


class OneTrainer(RunOptimizer, Trainer):
    def __init__(self, options: Options, folder) -> None:
        arguments = TrainingArguments(
            str(folder), report_to="none", use_cpu=True, weight_decay=0.1, learning_rate=3e-4, adam_beta2=0.98
        )
        super().__init__(model=SpanBertForPreTraining(tiny_config()), args=arguments)
        self.options = options


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("decay_all", [True, False])
def test_a_trainer_takes_the_runs_optimizer_and_what_it_decays(tmp_path, corrected, decay_all):
    options = SimpleNamespace(
        decay_all=decay_all,
        adam_bias_correction=corrected,
        learning_rate=3e-4,
        adam_beta2=0.98,
        adam_epsilon=1e-7,
    )
    trainer = OneTrainer(options, tmp_path)
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, torch.optim.AdamW if corrected else UncorrectedAdamW)
    decay = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    names = dict(trainer.model.named_parameters())
    assert decay.keys() == set(names.values())
    for name, parameter in names.items():
        spared = not decay_all and ("bias" in name or "norm" in name.lower())
        assert decay[parameter] == (0.0 if spared else 0.1), name
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"]) == (3e-4, (0.9, 0.98))
        assert corrected or group["eps"] == 1e-7
