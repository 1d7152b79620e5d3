# SPDX-License-Identifier: Apache-2.0
"""Parts `ce` and `chunk` of tune_cuda.py: variants of the row kernel, and rows of logits that exist at a time.

Both call operators of csrc/tuning, which a build with SPANBERT_EXT_TUNING=ON has. A variant that computes something
else than float64 does is reported and not timed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from support.errors import Unavailable
from support.tuner.card import Card, decoder_us, row_kernel_us
from support.tuner.session import Bench, Line, Sizes

LOGIT_SCALE = 3.0
DEAD_EVERY = 101  # one row in so many has no target; they are the last ones, as padding is
KERNEL = "cross_entropy_rows"
# Instructions a logit by the variant's unrolling, as tools/kernel_resources.py counts them.
INSTRUCTIONS = {"x1": 12.1, "x2": 10.6, "x4": 10.0}
USUAL_INSTRUCTIONS = 10.6
# Threads x unrolling, where the build cannot be asked.
PLANNED_VARIANTS = ("512x1", "512x2", "512x4", "256x2", "256x4", "1024x1", "1024x2")
# Of a row against float64, relative: a bfloat16 gradient is rounded by 2^-9 at most, exponentials in float32 by less.
TOLERANCE = {"nll": 1e-3, "gradient": 6e-3}


def tuning() -> Any:
    """The operators of csrc/tuning. Unavailable in a build without them."""
    import spanbert_ext  # noqa: F401  registers them

    found = torch.ops.spanbert_ext_tuning
    if not hasattr(found, "cross_entropy"):
        raise Unavailable("this build has no tuning operators: build it with SPANBERT_EXT_TUNING=ON")
    return found


def variants() -> list[str]:
    """The build's, or those that are planned for."""
    try:
        return list(tuning().cross_entropy_variants())
    except (Unavailable, ImportError):
        return list(PLANNED_VARIANTS)


class LogitsProblem:
    """Logits [rows, pitch] as a decoder makes them, and what float64 says of some of their rows."""

    def __init__(self, rows: int, sizes: Sizes, device: torch.device) -> None:
        generator = torch.Generator(device).manual_seed(rows)
        self.vocab, pitch = sizes.vocab, sizes.padded[-1]
        bias = torch.randn(self.vocab, generator=generator, device=device)
        self.logits = torch.zeros(rows, pitch, dtype=torch.bfloat16, device=device)  # pad columns are zero
        for part in self.logits.split(4096):  # float32 numbers of all rows would not fit beside the rest
            values = torch.randn(len(part), self.vocab, generator=generator, device=device)
            part[:, : self.vocab] = values * LOGIT_SCALE + bias
        self.work = self.logits.clone()
        self.rows = torch.randperm(rows, generator=generator, device=device)
        self.rows[rows - 1 - rows // DEAD_EVERY :] = -1
        self.targets = torch.randint(self.vocab, (rows,), generator=generator, device=device)
        self.row_weight = torch.rand(rows, generator=generator, device=device) / rows
        self.checked = torch.linspace(0, rows - 1, sizes.checked_rows).long().to(device)
        # the last of them is a dead one, and in the first one the maximum occurs twice
        peaks = self.logits[int(self.checked[0])]
        peaks[self.vocab // 3] = peaks[self.vocab // 2] = peaks.max() + 1

    def reset(self) -> None:
        self.work.copy_(self.logits)

    def run(self, variant: int) -> tuple[Tensor, Tensor]:
        return tuning().cross_entropy(
            self.work, self.rows, self.targets, self.row_weight, self.vocab, variant
        )

    def faults(self, variant: int) -> list[str]:
        """What the variant gets wrong on the checked rows, a line each."""
        self.reset()
        nll, prediction = self.run(variant)
        found, wrong = self.work[self.checked].cpu(), []
        logits = self.logits[self.checked].cpu().double()[:, : self.vocab]
        owner = self.rows[self.checked].cpu()  # [checked] row of targets, or -1
        live = owner >= 0
        owner, logits = owner[live], logits[live]
        target, weight = self.targets.cpu()[owner], self.row_weight.cpu()[owner].double()
        expected = torch.softmax(logits, 1)
        expected[torch.arange(len(owner)), target] -= 1
        expected *= weight[:, None]
        gradient = found[live].double()
        if found[~live].ne(0).any():
            wrong.append("the gradient of a row without a target is not zero")
        if gradient[:, self.vocab :].ne(0).any():
            wrong.append("the gradient beyond the vocabulary is not zero")
        apart = (gradient[:, : self.vocab] - expected).norm(dim=1) / expected.norm(dim=1)
        if not (apart <= TOLERANCE["gradient"]).all():
            wrong.append(
                f"gradient: relative error {apart.max():.2g}, expected at most {TOLERANCE['gradient']:g}"
            )
        loss = F.cross_entropy(logits, target, reduction="none")
        apart = (nll.cpu()[owner].double() - loss).abs() / loss
        if not (apart <= TOLERANCE["nll"]).all():
            wrong.append(f"nll: relative error {apart.max():.2g}, expected at most {TOLERANCE['nll']:g}")
        if not torch.equal(prediction.cpu()[owner], logits.argmax(1)):
            wrong.append("prediction: not the first of the largest logits")
        return wrong


def ce_line(name: str, index: int, rows: int, sizes: Sizes, card: Card) -> Line:
    def measure(bench: Bench) -> dict[str, Any]:
        tuning()  # says why, before logits are made
        problem = bench.share(("logits", rows), lambda: LogitsProblem(rows, sizes, bench.device))
        wrong = problem.faults(index)
        if wrong:
            raise ValueError("; ".join(wrong))
        found = bench.time(lambda: problem.run(index), problem.reset)
        kernel_us = bench.kernel_us(KERNEL, lambda: problem.run(index), problem.reset)
        if kernel_us is not None:  # the call counts rows and allocates beside it
            found |= {"call_us": found["measured_us"], "measured_us": kernel_us}
        return found

    pitch = sizes.padded[-1]
    instructions = INSTRUCTIONS.get(name[name.find("x") :], USUAL_INSTRUCTIONS)
    predicted = row_kernel_us(card, rows, pitch, instructions)
    key = {"variant": name, "rows": rows}
    return Line(
        "ce", f"{name} {rows} x {pitch}", key, predicted, measure, 4.0 * rows * pitch, "TB/s", seconds=1.5
    )


def ce_lines(sizes: Sizes, card: Card) -> list[Line]:
    names = variants()
    return [
        ce_line(name, i, rows, sizes, card) for rows in sizes.decoded_rows for i, name in enumerate(names)
    ]


class DecoderProblem:
    """Arguments of vocab_ce for two heads of as many rows, all with a target."""

    def __init__(self, rows: int, sizes: Sizes, device: torch.device) -> None:
        generator = torch.Generator(device).manual_seed(rows)

        def matrix(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device)

        h, weight = matrix(rows, sizes.width), matrix(sizes.vocab, sizes.width) / sizes.width**0.5
        targets = torch.randint(sizes.vocab, (rows,), generator=generator, device=device)
        row_weight = torch.full((rows,), 1 / rows, device=device)
        operands = (h, weight, matrix(2, sizes.vocab), [0, rows // 2], targets, row_weight)
        self.arguments = (*operands, torch.bfloat16, 0.0, rows, True, True, True)

    def run(self, chunk: int) -> tuple[Tensor, ...]:
        return tuning().vocab_ce(*self.arguments, chunk)

    def loss_by_chunks(self) -> float:
        """In float64, from the same bfloat16 operands."""
        h, weight, bias, (_, second), targets, row_weight = self.arguments[:6]
        wide = weight.bfloat16().double()
        total = 0.0
        for first in range(0, len(h), 2048):
            part = slice(first, first + 2048)
            head = (torch.arange(len(h), device=h.device)[part] >= second).long()
            logits = h[part].bfloat16().double() @ wide.t() + bias.double()[head]
            nll = F.cross_entropy(logits, targets[part], reduction="none")
            total += (nll * row_weight[part]).sum().item()
        return total


def chunk_line(chunk: int, sizes: Sizes, card: Card) -> Line:
    rows = sizes.decoded_rows[-1]

    def measure(bench: Bench) -> dict[str, Any]:
        tuning()

        def make() -> tuple[DecoderProblem, float]:
            problem = DecoderProblem(rows, sizes, bench.device)
            return problem, problem.loss_by_chunks()

        problem, expected = bench.share(("decoder", rows), make)
        loss = problem.run(chunk)[0].item()
        if not abs(loss - expected) <= 1e-3 * abs(expected):
            raise ValueError(f"the loss is {loss:.5g}, float64 says {expected:.5g}")
        found: dict[str, Any] = {}
        if bench.cuda:
            torch.cuda.reset_peak_memory_stats(bench.device)
            before = torch.cuda.memory_allocated(bench.device)
            problem.run(chunk)
            peak = torch.cuda.max_memory_allocated(bench.device) - before
            multiprocessors = torch.cuda.get_device_properties(bench.device).multi_processor_count
            chosen = tuning().chunk_rows(rows, sizes.width, vocab, 2, multiprocessors)
            found |= {"peak_mb": peak / 1e6, "library_takes": chosen}
        return found | bench.time(lambda: problem.run(chunk))

    vocab, inner = sizes.padded[-1], sizes.padded_widths[-1]
    predicted = decoder_us(card, rows, vocab, sizes.width, inner, chunk)
    flops = 6.0 * rows * sizes.vocab * sizes.width
    return Line(
        "chunk", f"{chunk} of {rows} rows", {"chunk": chunk}, predicted, measure, flops, "TFLOP/s", seconds=2
    )


def chunk_lines(sizes: Sizes, card: Card) -> list[Line]:
    return [chunk_line(chunk, sizes, card) for chunk in sizes.chunks]
