# SPDX-License-Identifier: Apache-2.0
"""Whether the compiled operators compute on a device what plain PyTorch does: one small step of both heads, twice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spanbert_ext.ops import boundary_mlp, span_mask, span_pretraining_loss
from spanbert_ext.ops._common import Impl
from spanbert_ext.reference.outputs import SpanMaskOutput

BATCH, LENGTH, WIDTH, POSITION_DIM, SLOTS = 8, 128, 128, 200, 20
VOCAB = 28_996  # of a cased BERT; no multiple of 8
# Ten times what rounding makes of these numbers on a CPU.
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 0.05}


@dataclass(frozen=True)
class Comparison:
    """One result of the compiled operators and the plain ones'. error: the largest difference over the largest number
    expected; NaN where either has one."""

    what: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


def self_check(device: torch.device | str) -> list[Comparison]:
    """Masks 8 rows of 128 tokens on `device`, and takes a step of both heads there, over a vocabulary of 28,996 tokens,
    in float32 and in bfloat16. Masks must be those of the plain implementation to the bit; losses and gradients are
    compared with the plain implementation's in float64 on the CPU.

    Raises:
        RuntimeError: the device is missing, or this build has no kernels for it; and what a kernel raises.
    """
    device = torch.device(device)
    masks = _masks("cpu", "reference")
    found = [
        Comparison(f"span_mask: {name}", float(not torch.equal(own.cpu(), plain)), 0.0)
        for (name, plain), own in zip(masks._asdict().items(), _masks(device, "fused"), strict=True)
    ]
    for dtype, limit in LIMITS.items():
        tensors = {name: tensor.to(dtype) for name, tensor in _tensors().items()}
        expected = _step(tensors, masks, "cpu", torch.float64, "reference")
        for name, own in _step(tensors, masks, device, dtype, "fused").items():
            plain = expected[name]
            error = float((own.double().cpu() - plain).abs().max() / plain.abs().max())
            found.append(Comparison(f"{str(dtype).removeprefix('torch.')}: {name}", error, limit))
    return found


def _masks(device: torch.device | str, impl: Impl) -> SpanMaskOutput:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(10, VOCAB, (BATCH, LENGTH), generator=draw)
    ids[:, [0, -1]] = 1
    ids[-1, LENGTH // 3 :] = 0  # a short row
    kinds = torch.randint(0, 2, (VOCAB,), generator=draw, dtype=torch.uint8)  # two words in four tokens
    kinds[:10] = 2
    tensors = (tensor.to(device) for tensor in (ids, kinds, torch.arange(10, VOCAB)))
    return span_mask(
        *tensors, seed=0, epoch=0, mask_token_id=3, pad_token_id=0, position_slots=SLOTS, impl=impl
    )


def _tensors() -> dict[str, Tensor]:
    """Encoder outputs and the parameters of both heads, of about the size of trained ones."""
    draw = torch.Generator().manual_seed(1)

    def normal(*shape: int, scale: float = 1.0, mean: float = 0.0) -> Tensor:
        return mean + scale * torch.randn(*shape, generator=draw, dtype=torch.float64)

    width, fan_in = WIDTH, 2 * WIDTH + POSITION_DIM
    return {
        "x": normal(BATCH, LENGTH, width),
        "weight": normal(VOCAB, width, scale=0.2),
        "bias": normal(VOCAB, scale=0.1),
        "sbo_bias": normal(VOCAB, scale=0.1),
        "positions": normal(SLOTS, POSITION_DIM),
        "weight1": normal(width, fan_in, scale=fan_in**-0.5),
        "bias1": normal(width, scale=0.1),
        "norm1_weight": normal(width, scale=0.1, mean=1.0),
        "norm1_bias": normal(width, scale=0.1),
        "weight2": normal(width, width, scale=width**-0.5),
        "bias2": normal(width, scale=0.1),
        "norm2_weight": normal(width, scale=0.1, mean=1.0),
        "norm2_bias": normal(width, scale=0.1),
    }


def _step(
    tensors: dict[str, Tensor],
    masks: SpanMaskOutput,
    device: torch.device | str,
    dtype: torch.dtype,
    impl: Impl,
) -> dict[str, Tensor]:
    """Losses, and the gradients of all `tensors`, by name."""
    leaves = {name: tensor.to(device, dtype).requires_grad_() for name, tensor in tensors.items()}
    x, weight, bias, sbo_bias, *parameters = leaves.values()

    def boundary_rows(x: Tensor, *indices: Tensor, **options: object) -> Tensor:
        return boundary_mlp(x, *indices, *parameters, **options)

    labels, *indices = (tensor.to(device) for tensor in masks[1:])
    output = span_pretraining_loss(
        x,
        labels,
        *indices,
        transform=nn.Identity(),
        weight=weight,
        bias=bias,
        boundary_rows=boundary_rows,
        sbo_bias=sbo_bias,
        impl=impl,
    )
    output.loss.backward()
    losses = {"MLM loss": output.mlm_loss, "SBO loss": output.sbo_loss}
    return losses | {f"gradient of {name}": leaf.grad for name, leaf in leaves.items()}
