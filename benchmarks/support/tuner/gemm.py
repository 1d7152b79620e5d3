# SPDX-License-Identifier: Apache-2.0
"""Parts `rates` and `gemm` of tune_cuda.py: the decoder's three products in every shape that is in question.

  1  logits [N', V'] = compact [N', D'] @ operand [V', D']^T       bfloat16
  2  dW     [V', D] (+)= gradient [N', V']^T @ compact [N', :D]    float32 or bfloat16
  3  dh     [N', D]  = gradient [N', V'] @ operand [V', :D]        bfloat16

"As now" is the form before dimensions were padded: V = 28996 columns of a matrix whose pitch is 29056.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from support.tuner.card import MULTIPLE, Card, memory_us, product_us
from support.tuner.session import Bench, Line, Sizes

LIBRARIES = ("cublas", "cublaslt")
BFLOAT16, FLOAT32 = "bfloat16", "float32"


@dataclass(frozen=True)
class Product:
    """One product. `pitch` is the row length of logits and gradient, `inner` that of the operands, product 1's k."""

    number: int  # 1, 2, 3
    rows: int  # N'
    vocab: int  # V or V'
    pitch: int
    width: int  # D
    inner: int  # D' or D
    out: str = BFLOAT16
    beta: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and inner dimension."""
        return {
            1: (self.rows, self.vocab, self.inner),
            2: (self.vocab, self.width, self.rows),
            3: (self.rows, self.width, self.vocab),
        }[self.number]

    @property
    def aligned(self) -> bool:
        """Whether cuBLAS' rule holds; its conditions name these two dimensions in all three products."""
        return all(
            size % MULTIPLE == 0 for size in (self.vocab, self.inner if self.number == 1 else self.width)
        )

    def predicted_us(self, card: Card) -> float:
        out_bytes = 4 if self.out == FLOAT32 else 2
        return product_us(card, *self.shape, aligned=self.aligned, out_bytes=out_bytes, adds=bool(self.beta))

    def make(self, device: torch.device) -> Callable[[], object]:
        """The product on random matrices, ready to run."""

        def matrix(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
            return torch.randn(*shape, device=device, dtype=dtype)

        operand = matrix(self.vocab, self.inner)
        compact = matrix(self.rows, self.inner)
        logits = matrix(self.rows, self.pitch)[:, : self.vocab]
        if self.number == 1:
            return lambda: torch.mm(compact, operand.t(), out=logits)
        if self.number == 3:
            grad_compact = matrix(self.rows, self.width)
            return lambda: torch.mm(logits, operand[:, : self.width], out=grad_compact)
        out = matrix(self.vocab, self.width, dtype=getattr(torch, self.out))
        return lambda: multiply_into(out, logits.t(), compact[:, : self.width], self.beta)


def multiply_into(out: Tensor, left: Tensor, right: Tensor, beta: int) -> Tensor:
    """out = left @ right + beta * out; a float32 result of bfloat16 operands needs CUDA's own overload."""
    if out.dtype != left.dtype:
        if out.device.type == "cpu":  # has none
            left, right = left.to(out.dtype), right.to(out.dtype)
        elif beta:
            return torch.ops.aten.addmm.dtype_out(out, left, right, out.dtype, out=out)
        else:
            return torch.ops.aten.mm.dtype_out(left, right, out.dtype, out=out)
    return torch.addmm(out, left, right, out=out) if beta else torch.mm(left, right, out=out)


@contextmanager
def blas(library: str, device: torch.device) -> Iterator[None]:
    """torch's products through `library`."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library(library)
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library(before)


def product_line(part: str, card: Card, product: Product, library: str, form: str = "aligned") -> Line:
    def measure(bench: Bench) -> dict[str, Any]:
        with blas(library, bench.device):
            return bench.time(product.make(bench.device))

    rows, columns, inner = product.shape
    key = {
        "product": product.number,
        "form": form,
        "library": library,
        "rows": product.rows,
        "vocab": product.vocab,
        "width": product.width,
        "inner": product.inner,
        "out": product.out,
        "beta": product.beta,
    }
    result = f" {product.out} beta {product.beta}" if product.number == 2 else ""
    size = f"{product.rows} x {product.vocab} x {product.width}/{product.inner}"
    name = f"{product.number} {form} {size}{result} {library}"
    flops = 2.0 * rows * columns * inner
    return Line(part, name, key, product.predicted_us(card), measure, flops, "TFLOP/s")


def aligned_three(sizes: Sizes, rows: int, vocab: int, inner: int) -> list[Product]:
    return [
        Product(1, rows, vocab, vocab, sizes.width, inner),
        Product(2, rows, vocab, vocab, sizes.width, inner, FLOAT32),
        Product(3, rows, vocab, vocab, sizes.width, inner),
    ]


def results_of_second(sizes: Sizes, rows: int, vocab: int, inner: int) -> list[Product]:
    """Product 2 with the other kinds of result: added to, and in bfloat16."""
    return [
        Product(2, rows, vocab, vocab, sizes.width, inner, out, beta)
        for out, beta in ((FLOAT32, 1), (BFLOAT16, 0), (BFLOAT16, 1))
    ]


def as_now(sizes: Sizes, width: int) -> list[Product]:
    """The three products, and the second with its other results, before dimensions were padded."""
    shape = (sizes.rows[0], sizes.vocab, sizes.padded[-1], width, width)
    return [
        Product(1, *shape),
        Product(2, *shape, FLOAT32),
        Product(3, *shape),
        Product(2, *shape, FLOAT32, 1),
        Product(2, *shape, BFLOAT16),
    ]


def gemm_products(sizes: Sizes) -> list[tuple[str, Product]]:
    """Every form and product, those that decide most first."""
    vocab, inner, rows = sizes.padded[-1], sizes.padded_widths[-1], sizes.usual_rows
    found = [("as now", product) for product in as_now(sizes, sizes.width)]
    wanted = aligned_three(sizes, rows, vocab, inner) + results_of_second(sizes, rows, vocab, inner)
    wanted += [Product(1, rows, v, v, sizes.width, d) for v in sizes.padded for d in sizes.padded_widths]
    wanted += [Product(1, rows, vocab, vocab, sizes.width, sizes.width)]
    for v in sizes.padded:
        for n in sizes.rows:
            wanted += aligned_three(sizes, n, v, inner)
    wanted += [Product(3, rows, vocab, vocab, sizes.width, d) for d in sizes.padded_widths]
    wanted += results_of_second(sizes, rows, sizes.padded[0], inner)
    for n in (*sizes.small_rows, sizes.many_rows):
        wanted += aligned_three(sizes, n, vocab, inner) + results_of_second(sizes, n, vocab, inner)
    large = (rows, vocab, vocab, sizes.large_width, sizes.large_padded_width)
    wanted += [
        Product(1, *large),
        Product(2, *large, FLOAT32),
        Product(2, *large, BFLOAT16),
        Product(3, *large),
    ]
    found += [("aligned", product) for product in dict.fromkeys(wanted)]
    return found + [("as now", product) for product in as_now(sizes, sizes.large_width)[:3]]


def gemm_lines(sizes: Sizes, card: Card) -> list[Line]:
    return [
        product_line("gemm", card, product, library, form)
        for library in LIBRARIES
        for form, product in gemm_products(sizes)
    ]


def rates_lines(sizes: Sizes, card: Card) -> list[Line]:
    """What the card does at its best, and the three products as they should run."""

    def copy(bench: Bench) -> dict[str, Any]:
        source = torch.randn(sizes.copied, device=bench.device)
        target = torch.empty_like(source)
        return bench.time(lambda: target.copy_(source))

    def square(bench: Bench) -> dict[str, Any]:
        left, right = (
            torch.randn(sizes.square, sizes.square, device=bench.device, dtype=torch.bfloat16)
            for _ in range(2)
        )
        out = torch.empty_like(left)
        return bench.time(lambda: torch.mm(left, right, out=out))

    moved, side = 8.0 * sizes.copied, sizes.square
    square_us = product_us(card, side, side, side, aligned=True, out_bytes=2)
    three = aligned_three(sizes, sizes.usual_rows, sizes.padded[-1], sizes.padded_widths[-1])
    return [
        Line(
            "rates",
            f"copy {moved / 2e6:.0f} MB",
            {"rate": "copy"},
            memory_us(card, moved),
            copy,
            moved,
            "TB/s",
        ),
        Line("rates", f"square {side}", {"rate": "square"}, square_us, square, 2.0 * side**3, "TFLOP/s"),
        *(product_line("rates", card, product, "cublas") for product in three),
    ]
