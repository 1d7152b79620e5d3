"""Benchmark of one training step of a BERT: masks, forward, backward, AdamW; tokens a second and peak memory.

  spanbert            SpanBertForPreTraining, MLM and SBO, masks by SpanMasker in the step
  spanbert_no_sbo     the same on its MLM loss alone
  stock_mlm           transformers' BertForMaskedLM, masks by DataCollatorForLanguageModeling on tensors
  masked_only         a trainer in plain PyTorch that decodes masked rows only, MLM and SBO, masks by SpanMasker
  masked_only_no_sbo  the same on its MLM loss alone

All share one set of random weights, one optimizer and one attention implementation. Providers that compute the
same thing are compared on the same masks before anything is timed: loss and all gradients. With --device cuda
the stock collator, which runs on the CPU, works before the clock starts, as in a DataLoader's worker.

Memory is the high-water mark of a step minus what is alive after it (weights, optimizer state); gradients count.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from cli import add_measuring, check_measuring, make_parser, measure
from common import (
    Progress,
    Stopwatch,
    Task,
    Unavailable,
    WrongResult,
    commit,
    device_rates,
    format_table,
    interleave,
    machine,
    quantiles,
    ratios,
    versions,
)
from memory import in_child, peak_mb, watch_cuda_memory, watch_resident_memory
from plots import Bars, plot_bars
from step_providers import LAYERS, NAMES, SAME_LOSS, Batch, Masks, Provider, make_model, make_providers
from text import Shape

EXAMPLES = """examples:
  python benchmarks/bench_step.py --layers 2 --shape base-4x512 --json out.json
  python benchmarks/bench_step.py --device cuda --dtype bfloat16 --shape base-32x512 --json out.json
  python benchmarks/bench_step.py --device cuda --dtype bfloat16 --shape large-32x512 --compile
  python benchmarks/bench_step.py --shape tiny --repeats 3                  (shows that it works)
"""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
REFERENCE = "stock_mlm"
# Relative difference of the losses, and of all gradients as one vector. A head that is missing or counted
# twice makes 0.3 and more; bfloat16 rounding passes through every layer.
TOLERANCE = {torch.float32: (1e-5, 1e-3), torch.bfloat16: (1e-2, 1e-1)}


class Trainer:
    """Steps of every provider on one set of parameters."""

    def __init__(
        self, shape: Shape, layers: int, device: torch.device, dtype: torch.dtype, compiled: bool
    ) -> None:
        self.device, self.dtype = device, dtype
        self.model = make_model(shape, layers, device)
        self.masks = Masks(shape, device)
        self.providers = make_providers(self.model, self.masks)
        self.compiled = compiled
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def compile(self) -> None:
        """After the check: its mode without dropout would be compiled beside the one that is timed."""
        if self.compiled:
            self.providers = {name: provider.compiled() for name, provider in self.providers.items()}

    def loss(self, provider: Provider, batch: Batch) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return provider.loss(batch)

    def prepare(self, name: str, step: int) -> Callable[[], None]:
        """A training step, without what a DataLoader's worker would have done."""
        provider = self.providers[name]
        ready = provider.masks(step) if provider.in_worker else None

        def train() -> None:
            batch = provider.masks(step) if ready is None else ready
            self.loss(provider, batch).backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

        return train

    def task(self, name: str, steps: int) -> Task:
        def timed(round_: int, watch: Stopwatch) -> None:
            prepared = [self.prepare(name, (round_ + 1) * steps + step) for step in range(steps)]
            watch.start()
            for train in prepared:
                train()
            watch.mark("full")

        return timed

    def check(self, names: Sequence[str], progress: Progress) -> dict[str, dict[str, float]]:
        """Differences of the pairs in SAME_LOSS without dropout; WrongResult beyond the tolerance."""
        self.model.eval()
        batch = self.masks.spans(0)

        def loss_and_gradient(name: str) -> tuple[float, torch.Tensor]:
            loss = self.loss(self.providers[name], batch)
            loss.backward()
            gradients = [
                torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                for parameter in self.model.parameters()
            ]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            self.optimizer.zero_grad(set_to_none=True)
            return loss.item(), flat

        found = {}
        for pair in SAME_LOSS:
            if not set(pair) <= set(names):
                continue
            (loss, gradient), (other_loss, other_gradient) = map(loss_and_gradient, pair)
            difference = abs(loss - other_loss) / abs(loss)
            apart = ((gradient - other_gradient).norm() / gradient.norm()).item()
            label = " and ".join(pair)
            found[label] = {"loss": difference, "gradients": apart}
            progress(f"equality  {label}: relative difference {difference:.1e}, of gradients {apart:.1e}")
            if not (difference <= TOLERANCE[self.dtype][0] and apart <= TOLERANCE[self.dtype][1]):
                raise WrongResult(
                    f"{label} should agree: losses differ by {difference:.3g}, gradients by {apart:.3g}; "
                    "nothing was timed"
                )
        self.model.train()
        return found

    def peaks(self, names: Sequence[str], peak: Callable[..., int], progress: Progress) -> dict[str, float]:
        found = {}
        for name in names:
            found[name] = peak_mb(peak, lambda step, name=name: self.prepare(name, step))
            progress(f"memory  {name}: {found[name]:.1f} MB")
        return found


def child_peaks(
    shape: Shape, layers: int, dtype: torch.dtype, compiled: bool, names: Sequence[str], threads: int
) -> dict[str, float]:
    """Peak memory on the CPU; runs in a process of its own, see memory.py."""
    torch.set_num_threads(threads)
    trainer = Trainer(shape, layers, torch.device("cpu"), dtype, compiled)
    trainer.compile()
    return trainer.peaks(names, watch_resident_memory(), Progress())


def run(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """The whole benchmark; returns the report that --json writes."""
    device, dtype = torch.device(options.device), DTYPES[options.dtype]
    shape = Shape.parse(options.shape, options.vocab)
    layers = options.layers or LAYERS[shape.hidden]
    steps = options.steps or (5 if device.type == "cuda" else 1)
    described = machine(device)
    progress(f"{layers} layers, {shape} on {device}, {options.dtype}, {torch.get_num_threads()} threads")
    trainer = Trainer(shape, layers, device, dtype, options.compile)
    names, unavailable = list(options.providers), {}
    checked = trainer.check(names, progress)
    trainer.compile()

    tasks = {name: trainer.task(name, steps) for name in names}
    watch = Stopwatch(device, launch_ahead=False)  # a step's launches are part of it
    for name, task in tasks.items():
        task(-1, watch)
        progress(f"warmed up  {name}")
    samples = interleave(tasks, watch, options.repeats, options.seconds, progress)
    samples = {
        name: [{"full": sample["full"] / steps} for sample in rounds] for name, rounds in samples.items()
    }

    try:
        if device.type == "cuda":
            peaks = trainer.peaks(names, watch_cuda_memory(device), progress)
        else:
            size = (shape, layers, dtype, options.compile)
            del trainer, tasks  # the child makes its own
            peaks = in_child(child_peaks, *size, names, torch.get_num_threads())
    except Unavailable as reason:
        peaks = {}
        unavailable["peak_mb"] = str(reason)

    reference = REFERENCE if REFERENCE in samples else names[0]
    tokens = Masks(shape, torch.device("cpu")).tokens
    entries = {}
    for name, rounds in samples.items():
        step_ms = quantiles([sample["full"] for sample in rounds])
        entries[name] = {
            "tokens_per_s": tokens / step_ms["p50"] * 1e3,
            "peak_mb": peaks.get(name),
            "step_ms": step_ms,
            f"speed_over_{reference}": ratios(samples, reference, name),
        }
    return {
        "benchmark": "bench_step",
        "machine": described,
        "rates": device_rates(device, dtype),
        "device": options.device,
        "shape": shape.name,
        "sizes": {
            "rows": shape.rows,
            "length": shape.length,
            "hidden": shape.hidden,
            "vocab": shape.vocab,
            "layers": layers,
            "tokens": tokens,
        },
        "dtype": options.dtype,
        "compile": options.compile,
        "steps_per_sample": steps,
        "versions": versions(["transformers", "triton"]),
        "commit": commit(),
        "rounds": len(samples[reference]),
        "reference": reference,
        "agreement": checked,
        "providers": entries,
        "unavailable": unavailable,
    }


def summary(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    reference = report["reference"]
    rows = []
    for name, entry in report["providers"].items():
        step, peak = entry["step_ms"], entry["peak_mb"]
        rows.append(
            [
                name,
                f"{entry['tokens_per_s']:.0f}",
                f"{entry[f'speed_over_{reference}']['p50']:.2f}",
                f"{step['p50']:.2f}",
                f"{step['p20']:.2f} .. {step['p80']:.2f}",
                "-" if peak is None else f"{peak:.1f}",
            ]
        )
    header = ["provider", "tokens/s", f"speed/{reference}", "step ms", "p20 .. p80", "peak MB"]
    lines = [
        f"{report['shape']}, {report['sizes']['layers']} layers, {report['dtype']}"
        f"{', torch.compile' if report['compile'] else ''} on "
        f"{report['machine'].get('gpu') or report['machine']['cpu']}, {report['rounds']} rounds, "
        f"{report['machine']['torch_threads']} CPU threads; copy {report['rates']['copy_gb_s']:.0f} GB/s, "
        f"GEMM {report['rates']['gemm_tflop_s']:.2f} TFLOP/s",
        format_table(header, rows),
    ]
    lines += [f"not measured: {name}: {reason}" for name, reason in report["unavailable"].items()]
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    processor = report["machine"].get("gpu") or report["machine"]["cpu"]
    title = f"Training step, {report['shape']}, {report['sizes']['layers']} layers, {report['dtype']}, {processor}"
    entries = report["providers"]
    times = {name: entry["step_ms"] for name, entry in entries.items()}
    peaks = {
        name: {"p50": entry["peak_mb"]} for name, entry in entries.items() if entry["peak_mb"] is not None
    }
    plot_bars(path, title, [Bars("ms a step", times), Bars("peak MB", peaks)])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "--shape",
        default="base-4x512",
        help="as for bench_sbo.py: width, rows, tokens a row (default %(default)s)",
    )
    parser.add_argument("--layers", type=int, help="of the encoder (default tiny 2, base 12, large 24)")
    parser.add_argument("--vocab", type=int, help="vocabulary size instead of 28996")
    parser.add_argument(
        "--dtype",
        choices=tuple(DTYPES),
        default="float32",
        help="bfloat16 is autocast over float32 parameters (default %(default)s)",
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile every provider's model")
    parser.add_argument("--steps", type=int, help="steps in one sample (default 1, on CUDA 5)")
    add_measuring(parser, NAMES, repeats=10, seconds=120)
    options = parser.parse_args(arguments)
    try:
        Shape.parse(options.shape, options.vocab)
    except ValueError as error:
        parser.error(str(error))
    for name in ("layers", "steps"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    check_measuring(parser, options, NAMES)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    return measure(parse(arguments), run, summary, plot)


if __name__ == "__main__":
    sys.exit(main())
