# SPDX-License-Identifier: Apache-2.0
"""The three bare matrix products of both heads' decoder, each in the fastest layout that was tried.

A head that makes the logits [N, V], the gradient of their rows h [N, D] and that of the decoder matrix W [V, D] makes
these products, whatever else it does. On a GPU a library is at its best only where dimensions and pitches are
multiples of 16 bytes, which no usual vocabulary is; so the layouts include rows and vocabulary rounded up, as a head
may lay its own buffers out. Outputs have the dtypes of the fused operator's: logits and the gradient of h in the
dtype that is multiplied, the gradient of W in float32 where the device can.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from support.clock import Stopwatch, Task
from support.head_setting import Setting
from support.rates import multiplies_fast

ROUNDINGS = (128, 8)  # values; with the data's own size these are the sizes that are tried
FINALISTS, FINAL_TRIES = 3, 2


@dataclass(frozen=True)
class Layout:
    """One way to make one product; `pitch` is that of the logits' memory, in values."""

    form: str
    rows: int
    vocab: int
    pitch: int
    dtype: torch.dtype  # of the output
    work: Callable[[], object]

    def __str__(self) -> str:
        sizes = f"{self.rows} x {self.vocab}"
        if self.pitch not in (self.rows, self.vocab):
            sizes += f" at a pitch of {self.pitch}"
        return f"{self.form}, {sizes}, {str(self.dtype).removeprefix('torch.')}"


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def sizes(rows: int, vocab: int) -> list[tuple[int, int, int]]:
    """Rows, vocabulary and pitch of the layouts, each once; the first are the data's own."""
    aligned = [(round_up(rows, m), round_up(vocab, m), round_up(vocab, m)) for m in ROUNDINGS]
    pitch_alone = (rows, vocab, round_up(vocab, ROUNDINGS[0]))
    return list(dict.fromkeys([(rows, vocab, vocab), *aligned, pitch_alone]))


def accumulates_in_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch.mm can write float32 from operands of `dtype` there; float32 operands need no such thing."""
    left, out = torch.ones(8, 8, device=device, dtype=dtype), torch.empty(8, 8, device=device)
    try:
        torch.mm(left, left, out_dtype=torch.float32, out=out)
    except (NotImplementedError, RuntimeError, TypeError):
        return False
    return True


def make_layouts(
    device: torch.device, dtype: torch.dtype, rows: int, vocab: int, width: int
) -> dict[str, list[Layout]]:
    """By product, all the layouts, on random values in memory that they share."""
    padded_rows, padded_vocab = (round_up(value, max(ROUNDINGS)) for value in (rows, vocab))
    random = functools.partial(torch.randn, device=device, dtype=dtype)
    all_h, all_weight = random(padded_rows, width), random(padded_vocab, width)
    gradient = random(padded_rows * padded_vocab)
    wide = dtype != torch.float32 and accumulates_in_float32(device, dtype)
    options = {"out_dtype": torch.float32} if wide else {}
    out_logits, out_h = torch.zeros_like(gradient), torch.zeros_like(all_h)
    out_weight = torch.zeros(padded_vocab * width, device=device, dtype=torch.float32 if wide else dtype)

    def forms(n: int, v: int, pitch: int) -> dict[str, dict[str, Callable[[], object]]]:
        h, weight = all_h[:n], all_weight[:v]  # [N, D], [V, D]
        g, logits = (memory[: n * pitch].view(n, pitch)[:, :v] for memory in (gradient, out_logits))  # [N, V]
        dh, dw = out_h[:n], out_weight[: v * width].view(v, width)
        dh_t, dw_t = dh.view(width, n), dw.view(width, v)  # the same memory for a transposed result
        made: dict[str, dict[str, Callable[[], object]]] = {
            "logits": {"h @ W.T": lambda: torch.mm(h, weight.T, out=logits)},
            "grad_h": {"g @ W": lambda: torch.mm(g, weight, out=dh)},
            "grad_W": {
                "g.T @ h": lambda: torch.mm(g.T, h, out=dw, **options),
                "(h.T @ g).T": lambda: torch.mm(h.T, g, out=dw_t, **options),
            },
        }
        if pitch == v:  # transposed, [V, N], their pitch is N
            g_t, logits_t = (memory[: n * v].view(v, n) for memory in (gradient, out_logits))
            made["logits"]["(W @ h.T).T"] = lambda: torch.mm(weight, h.T, out=logits_t)
            made["grad_h"]["gT.T @ W"] = lambda: torch.mm(g_t.T, weight, out=dh)
            made["grad_h"]["(W.T @ gT).T"] = lambda: torch.mm(weight.T, g_t, out=dh_t)
            made["grad_W"]["gT @ h"] = lambda: torch.mm(g_t, h, out=dw, **options)
        return made

    found: dict[str, list[Layout]] = {"logits": [], "grad_h": [], "grad_W": []}
    for size in sizes(rows, vocab):
        for product, ways in forms(*size).items():
            out_dtype = out_weight.dtype if product == "grad_W" else dtype
            found[product] += [Layout(form, *size, out_dtype, work) for form, work in ways.items()]
    return found


def fastest(layouts: list[Layout], measure: Callable[[Layout], float]) -> tuple[Layout, dict[str, float]]:
    """The layout with the least of its times, and these times by layout: all are tried, the best again."""
    best = {layout: measure(layout) for layout in layouts}
    for _ in range(FINAL_TRIES):
        for layout in sorted(layouts, key=lambda layout: best[layout])[:FINALISTS]:
            best[layout] = min(best[layout], measure(layout))
    return min(layouts, key=lambda layout: best[layout]), {str(layout): ms for layout, ms in best.items()}


def gemm_floor(setting: Setting) -> tuple[Task, dict[str, str], dict[str, Mapping[str, float]]]:
    """A task that makes the three products of both heads, the layouts that it uses, and the times of all layouts.

    Where the processor has no products of its own in the run's dtype, float32 is the floor.
    """
    dtype = setting.dtype if multiplies_fast(setting.device, setting.dtype) else torch.float32
    layouts = make_layouts(
        setting.device, dtype, sum(setting.rows), setting.shape.vocab, setting.shape.hidden
    )
    watch = Stopwatch(setting.device)

    def milliseconds(layout: Layout) -> float:
        if setting.device.type == "cuda":
            layout.work()  # the library loads a kernel when it first runs
        watch.start()
        layout.work()
        watch.mark("end")
        return watch.read()["end"]

    chosen: dict[str, Layout] = {}
    tried: dict[str, Mapping[str, float]] = {}
    for product, candidates in layouts.items():
        chosen[product], tried[product] = fastest(candidates, milliseconds)

    def task(_: int, watch: Stopwatch) -> None:
        watch.start()
        for product, layout in chosen.items():
            layout.work()
            watch.mark("forward" if product == "logits" else "full")

    return task, {product: str(layout) for product, layout in chosen.items()}, tried
