# SPDX-License-Identifier: Apache-2.0
"""Every operator forward and backward at a few small odd sizes: what compute-sanitizer looks at.

  cd benchmarks
  compute-sanitizer --tool memcheck python -m support.sanitizer_set
  python -m support.sanitizer_set --device cpu           (shows that the set itself is sound)

Losses and gradients are compared with the plain PyTorch reference on the same device, masks with those of the
CPU, so that a clean run is also one that computed something.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spanbert_ext import SpanBoundaryHead
from spanbert_ext.ops import SpanMaskOutput, span_mask, span_pretraining_loss, vocab_ce
from support.cli import make_parser
from support.text import FIRST_WORD, MASK, PAD, Shape, sample_text, token_kinds


@dataclass(frozen=True)
class Size:
    rows: int  # B
    length: int  # L
    hidden: int  # H
    output: int  # D
    vocab: int  # V
    ragged: bool = False


SIZES = (Size(3, 37, 17, 17, 131), Size(2, 130, 64, 64, 1000, ragged=True), Size(1, 64, 129, 127, 769))
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}  # of a norm, relative


def mask(size: Size, device: torch.device) -> SpanMaskOutput:
    """Masks made on the device, compared with the CPU's."""
    shape = Shape("set", size.hidden, size.vocab, size.rows, size.length, ragged=size.ragged)
    ids, attention_mask = sample_text(shape, torch.Generator().manual_seed(size.length))

    def masks_on(where: torch.device) -> SpanMaskOutput:
        return span_mask(
            ids.to(where),
            token_kinds(size.vocab).to(where),
            torch.arange(FIRST_WORD, size.vocab, device=where),
            seed=3,
            epoch=1,
            attention_mask=attention_mask.to(where),
            mask_token_id=MASK,
            pad_token_id=PAD,
            position_slots=5,
        )

    masks = masks_on(device)
    for name, mine, other in zip(masks._fields, masks, masks_on(torch.device("cpu")), strict=True):
        if not torch.equal(mine.cpu(), other):
            raise AssertionError(f"span_mask: {name} differs from the CPU's at {size}")
    return masks


def compare(what: str, tensors: Sequence[Tensor], references: Sequence[Tensor], dtype: torch.dtype) -> None:
    for place, (mine, other) in enumerate(zip(tensors, references, strict=True)):
        apart = (mine.double() - other.double()).norm() / other.double().norm().clamp_min(1e-30)
        if not apart <= TOLERANCE[dtype]:
            raise AssertionError(
                f"{what}: tensor {place} is {apart:.3g} apart from the reference, in {dtype}"
            )


def heads(
    size: Size,
    masks: SpanMaskOutput,
    dtype: torch.dtype,
    device: torch.device,
    impl: str,
    max_rows: int | None = None,
) -> list[Tensor]:
    """Loss of both heads (head_targets, boundary_mlp, vocab_ce and head_statistics inside) and all gradients."""
    torch.manual_seed(0)
    sbo = SpanBoundaryHead(size.hidden, size.output, size.vocab, position_dim=7, position_slots=5)
    transform = torch.nn.Linear(size.hidden, size.output)
    weight, bias = torch.randn(size.vocab, size.output) * 0.1, torch.randn(size.vocab) * 0.1
    x = torch.randn(size.rows, size.length, size.hidden)
    sbo, transform = sbo.to(device, dtype), transform.to(device, dtype)
    leaves = [tensor.to(device, dtype).requires_grad_() for tensor in (x, weight, bias)]
    output = span_pretraining_loss(
        leaves[0],
        masks.labels,
        masks.masked_positions,
        masks.left_boundary,
        masks.right_boundary,
        transform=transform,
        weight=leaves[1],
        bias=leaves[2],
        boundary_rows=sbo,
        sbo_bias=sbo.bias,
        max_rows=max_rows,
        impl=impl,
    )
    output.loss.backward()
    parameters = [*leaves, *sbo.parameters(), *transform.parameters()]
    return [output.loss.detach(), *(parameter.grad for parameter in parameters)]


def decoder(size: Size, dtype: torch.dtype, device: torch.device, impl: str) -> list[Tensor]:
    """vocab_ce alone: strided rows, rows without a target, no bias."""
    torch.manual_seed(1)
    h = torch.randn(2 * size.rows + 5, 2 * size.output).to(device, dtype)[:, ::2].requires_grad_()  # [N, D]
    weight = torch.randn(size.vocab, size.output).mul(0.1).to(device, dtype).requires_grad_()
    targets = torch.randint(size.vocab, (len(h),)).to(device)
    targets[1] = -100
    row_weight = torch.rand(len(h)).to(device)
    loss = vocab_ce(h, weight, None, targets, row_weight, label_smoothing=0.1, impl=impl).loss
    return [loss.detach(), *torch.autograd.grad(loss, (h, weight))]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__, "")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="default %(default)s")
    options: argparse.Namespace = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device")
    device = torch.device(options.device)
    for size in SIZES:
        masks = mask(size, device)
        for dtype in TOLERANCE:
            plain = heads(size, masks, dtype, device, "reference")
            for bound in (None, int((masks.masked_positions >= 0).sum()) + 3):
                fused = heads(size, masks, dtype, device, "fused", bound)
                compare(f"both heads at {size}, max_rows={bound}", fused, plain, dtype)
            fused, plain = (decoder(size, dtype, device, impl) for impl in ("fused", "reference"))
            compare(f"vocab_ce at {size}", fused, plain, dtype)
        print(f"{size}: masks, both heads and the decoder in {', '.join(map(str, TOLERANCE))}")
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 0


if __name__ == "__main__":
    sys.exit(main())
