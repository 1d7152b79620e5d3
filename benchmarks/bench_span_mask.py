# SPDX-License-Identifier: Apache-2.0
"""Benchmark of masking: tokens a second of one batch, masked by the operator, by transformers and by NumPy.

  span_mask          spanbert_ext.ops.span_mask, the whole call
  span_masker        SpanMasker, the same behind its arguments' checks
  collator_tensors   DataCollatorForSpanMasking on equal-length tensors
  collator_lists     the same on rows of Python lists
  padding_tensors    what a batch costs without masking: tensors stacked, a mask of ones
  padding_lists      transformers' padding of rows of Python lists
  hf_token_masking   DataCollatorForLanguageModeling.torch_mask_tokens: single tokens, special ones given
  hf_whole_word      the same with whole_word_mask=True: words, offsets given
  hf_collator_lists  DataCollatorForLanguageModeling on rows of Python lists
  published_numpy    the published algorithm as a NumPy and Python loop a row

Inputs are made before the clock starts: every provider gets its input ready made, special tokens and word
offsets included. Each is checked before it is timed: the share of masked tokens, labels and special tokens
are checked. A sample is several calls where they are short, after one that is not timed. With --device cuda
the first two run on the GPU, the others, which cannot, on the CPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from providers.span_masks import BUILDERS
from support.cli import add_measuring, check_measuring, make_parser, measure
from support.clock import Stopwatch, Task, interleave, quantiles, ratios
from support.errors import Unavailable, WrongResult
from support.machine import commit, machine, versions
from support.mask_problem import RATIO, Provider, Setting, Text
from support.plots import Bars, plot_bars
from support.rates import device_rates
from support.report import Progress, format_table
from support.text import CASED_WORDPIECE, Shape, sample_text

EXAMPLES = """examples:
  python benchmarks/bench_span_mask.py --json out.json --plot out.png
  python benchmarks/bench_span_mask.py --threads 2 --providers span_mask,hf_token_masking
  python benchmarks/bench_span_mask.py --device cuda --json out.json
  python benchmarks/bench_span_mask.py --rows 8 --length 64 --repeats 3    (shows that it works)
"""
BATCHES = 8  # different ones, visited in turn
SAMPLE_SECONDS = 0.02  # a sample is as many calls as fill this on a CPU, at most CALLS
CALLS = 32


def check(name: str, provider: Provider, text: Text) -> float:
    """WrongResult when the provider does not do its job on one batch; returns the share of masked tokens."""
    found, labels = provider.work(provider.prepare(text), 0)
    ids, special = text.ids, text.special  # [B, L]
    found = torch.as_tensor(found).cpu()
    if not provider.masks:
        if not torch.equal(found, ids):
            raise WrongResult(f"{name} changes the ids")
        return 0.0
    labels = torch.as_tensor(labels).cpu()
    masked = labels != -100
    per_row, tokens = masked.sum(1), (~special).sum(1)  # [B]
    share = (per_row.sum() / tokens.sum()).item()
    if (masked & special).any():
        raise WrongResult(f"{name} masks special tokens")
    if not torch.equal(labels[masked], ids[masked]) or not torch.equal(found[~masked], ids[~masked]):
        raise WrongResult(f"{name}: labels are not the original ids, or unmasked ids are changed")
    if provider.exact and not torch.equal(per_row, torch.ceil(RATIO * tokens.double()).long()):
        raise WrongResult(f"{name} does not mask {RATIO:.0%} of every row, rounded up")
    spread = 8 * (RATIO / tokens.sum().item()) ** 0.5  # about eight standard deviations, also of whole words
    if not provider.exact and abs(share - RATIO) > spread:
        raise WrongResult(f"{name} masks {share:.1%} of the tokens, not {RATIO:.0%}")
    kept = (found == ids)[masked].float().mean().item()
    if kept > 0.5:
        raise WrongResult(f"{name} leaves {kept:.0%} of the masked tokens as they are")
    return share


def calls_per_sample(provider: Provider, text: Text, device: torch.device) -> int:
    """One on a GPU, where events time a single call; on a CPU as many as fill SAMPLE_SECONDS."""
    if provider.on_device and device.type == "cuda":
        return 1
    inputs = provider.prepare(text)
    begin = time.perf_counter()
    provider.work(inputs, 0)
    return min(CALLS, 1 + int(SAMPLE_SECONDS / (time.perf_counter() - begin)))


def make_task(provider: Provider, texts: Sequence[Text], calls: int) -> Task:
    def task(round_: int, watch: Stopwatch) -> None:
        first = (round_ + 1) * calls
        prepared = [provider.prepare(texts[(first + call) % BATCHES]) for call in range(calls)]
        if calls > 1:  # a call that is short next to what ran before it finds its memory given back
            provider.work(provider.prepare(texts[first % BATCHES]), first)
        watch.start()
        for call, inputs in enumerate(prepared):
            provider.work(inputs, first + call)
        watch.mark("full")

    return task


def run(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """The whole benchmark; returns the report that --json writes."""
    device = torch.device(options.device)
    described = machine(device)
    shape = Shape("masking", hidden=0, vocab=options.vocab, rows=options.rows, length=options.length)
    generator = torch.Generator().manual_seed(0)
    texts = [Text(sample_text(shape, generator)[0], device) for _ in range(BATCHES)]
    setting = Setting(options.vocab, device)
    torch.manual_seed(0)

    providers, unavailable, shares = {}, {}, {}
    for name in options.providers:
        try:
            providers[name] = BUILDERS[name](setting)
        except Unavailable as reason:
            unavailable[name] = str(reason)
            continue
        shares[name] = check(name, providers[name], texts[0])
        progress(f"checked  {name}: {shares[name]:.2%} masked")
    if not providers:
        raise SystemExit(f"no provider can run here: {unavailable}")

    calls = {name: calls_per_sample(provider, texts[0], device) for name, provider in providers.items()}
    tasks = {name: make_task(provider, texts, calls[name]) for name, provider in providers.items()}
    on_cpu, on_device = Stopwatch(torch.device("cpu")), Stopwatch(device)
    watches = {name: on_device if provider.on_device else on_cpu for name, provider in providers.items()}
    for name, task in tasks.items():
        task(-1, watches[name])
    samples = interleave(tasks, watches, options.repeats, options.seconds, progress)
    samples = {
        name: [{"full": sample["full"] / calls[name]} for sample in rounds]
        for name, rounds in samples.items()
    }

    reference = "span_mask" if "span_mask" in samples else next(iter(samples))
    tokens = shape.rows * shape.length
    entries = {}
    for name, rounds in samples.items():
        call_ms = quantiles([sample["full"] for sample in rounds])
        entries[name] = {
            "tokens_per_s": tokens / call_ms["p50"] * 1e3,
            "call_ms": call_ms,
            f"time_over_{reference}": ratios(samples, name, reference),
            "masked_share": shares[name],
            "device": watches[name].device.type,
        }
    pairs = [(f"collator_{form}", f"padding_{form}") for form in ("tensors", "lists")]
    return {
        "benchmark": "bench_span_mask",
        "machine": described,
        "rates": device_rates(device, torch.float32),
        "device": options.device,
        "sizes": {"rows": shape.rows, "length": shape.length, "vocab": shape.vocab},
        "versions": versions(["transformers", "numpy"]),
        "commit": commit(),
        "rounds": len(samples[reference]),
        "reference": reference,
        "providers": entries,
        "collator_over_padding": {
            mine: ratios(samples, mine, base) for mine, base in pairs if mine in samples and base in samples
        },
        "unavailable": unavailable,
    }


def summary(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    reference, sizes = report["reference"], report["sizes"]
    rows = [
        [
            name,
            f"{entry['tokens_per_s'] / 1e6:.2f}",
            f"{entry['call_ms']['p50']:.3f}",
            f"{entry['call_ms']['p20']:.3f} .. {entry['call_ms']['p80']:.3f}",
            f"{entry[f'time_over_{reference}']['p50']:.2f}",
            entry["device"],
        ]
        for name, entry in report["providers"].items()
    ]
    lines = [
        f"{sizes['rows']} x {sizes['length']} tokens on {report['machine'].get('gpu') or report['machine']['cpu']}, "
        f"{report['rounds']} rounds, {report['machine']['torch_threads']} CPU threads; copy "
        f"{report['rates']['copy_gb_s']:.0f} GB/s",
        format_table(["provider", "M tokens/s", "ms", "p20 .. p80", f"time/{reference}", "device"], rows),
    ]
    lines += [
        f"{name} takes {ratio['p50']:.2f} times its padding alone"
        for name, ratio in report["collator_over_padding"].items()
    ]
    lines += [f"not measured: {name}: {reason}" for name, reason in report["unavailable"].items()]
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    sizes = report["sizes"]
    processor = report["machine"].get("gpu") or report["machine"]["cpu"]
    title = f"Masking {sizes['rows']} x {sizes['length']} tokens, {processor}"
    times = {name: entry["call_ms"] for name, entry in report["providers"].items()}
    plot_bars(path, title, [Bars("ms a call", times, logarithmic=True)])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES)
    parser.add_argument("--rows", type=int, default=256, help="default %(default)s")
    parser.add_argument("--length", type=int, default=512, help="tokens a row (default %(default)s)")
    parser.add_argument("--vocab", type=int, default=CASED_WORDPIECE, help="default %(default)s")
    add_measuring(parser, list(BUILDERS), repeats=50, seconds=60, threads=1)
    options = parser.parse_args(arguments)
    if options.rows < 1 or options.length < 8 or options.vocab < 64:
        parser.error("--rows must be at least 1, --length at least 8, --vocab at least 64")
    check_measuring(parser, options, list(BUILDERS))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    return measure(parse(arguments), run, summary, plot)


if __name__ == "__main__":
    sys.exit(main())
