# SPDX-License-Identifier: Apache-2.0
"""What tune_cuda.py's measurements decide: one function per question, from the report's lines to a sentence.

A rule answers None while the lines that it needs are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from support.tuner.session import Sizes

Lines = Sequence[dict[str, Any]]

FAST_TFLOP_S = 550.0  # aligned products below it: cuBLAS is not good enough
FLOAT32_RATE = 0.85  # of bfloat16's, below which dW is made in bfloat16 and cast
UNEQUAL = 1.25  # between the slowest and the fastest of the three products
LT_GAIN = 1.08  # at two shapes, that another library must bring
ROW_KERNEL_US = 190.0  # at base 32x512
BUSY = 0.85  # of a step's wall time
NATIVE = ("nvjet", "sm90")  # in the names of kernels made for Hopper


def measured(lines: Lines, part: str, **key: Any) -> list[dict[str, Any]]:
    """Lines of a part that have figures and, in their keys, these values."""
    return [
        line
        for line in lines
        if line["part"] == part
        and "measured_us" in line
        and all(line["key"].get(name) == value for name, value in key.items())
    ]


def first(lines: Lines, part: str, **key: Any) -> dict[str, Any] | None:
    return next(iter(measured(lines, part, **key)), None)


def three(lines: Lines, sizes: Sizes, **key: Any) -> list[dict[str, Any]] | None:
    """The three products with their usual results, or None if one is missing. `key` beyond the usual shape."""
    usual = {
        "form": "aligned",
        "library": "cublas",
        "rows": sizes.usual_rows,
        "vocab": sizes.padded[-1],
        "width": sizes.width,
        "inner": sizes.padded_widths[-1],
        **key,
    }
    results = ({}, {"out": "float32", "beta": 0}, {})
    found = [
        first(lines, "gemm", product=number, **usual, **result)
        for number, result in enumerate(results, start=1)
    ]
    return None if None in found else [line for line in found if line]


def rates(products: Lines) -> str:
    return ", ".join(f"{line['key']['product']}: {line['rate']:.0f}" for line in products)


def engine(lines: Lines, sizes: Sizes) -> str | None:
    """Aligned products fast enough: ATen's cuBLAS stays."""
    products = three(lines, sizes)
    if products is None:
        return None
    fast = all(line["rate"] >= FAST_TFLOP_S for line in products)
    verdict = "keep cuBLAS through ATen" if fast else "try cublasLt directly"
    return f"{verdict}: aligned products run at {rates(products)} TFLOP/s, wanted {FAST_TFLOP_S:.0f}"


def library(lines: Lines, sizes: Sizes) -> str | None:
    """cublasLt as torch calls it, where it beats cuBLAS at two shapes."""
    pairs = []
    for line in measured(lines, "gemm", library="cublas", form="aligned"):
        other = first(lines, "gemm", **{**line["key"], "library": "cublaslt"})
        if other:
            pairs.append((line["measured_us"] / other["measured_us"], line["name"]))
    if not pairs:
        return None
    better = sorted((pair for pair in pairs if pair[0] > LT_GAIN), reverse=True)
    verdict = "prefer cublasLt" if len(better) >= 2 else "keep cuBLAS"
    best = ", ".join(f"{gain:.2f} at {name}" for gain, name in (better or [max(pairs)])[:3])
    return f"{verdict}: cublasLt is more than {LT_GAIN:.2f} x as fast at {len(better)} of {len(pairs)} shapes ({best})"


def fallbacks(lines: Lines, sizes: Sizes) -> str | None:
    """Products whose kernels were not made for Hopper."""
    named = [line for line in measured(lines, "gemm") if line.get("kernel")]
    if not named:
        return None
    old = [line["name"] for line in named if not any(part in line["kernel"] for part in NATIVE)]
    aligned = [name for name in old if " aligned " in name]
    return (
        f"{len(old)} of {len(named)} products run a kernel without {' or '.join(NATIVE)} in its name, "
        f"{len(aligned)} of them aligned" + (f": {'; '.join(aligned[:3])}" if aligned else "")
    )


def unequal(lines: Lines, sizes: Sizes) -> str | None:
    """Which product suffers from dimensions that are not aligned."""
    shape = {"rows": sizes.rows[0], "vocab": sizes.vocab, "inner": sizes.width}
    products = three(lines, sizes, form="as now", **shape)
    if products is None:
        return None
    speeds = [line["rate"] for line in products]
    if max(speeds) <= UNEQUAL * min(speeds):
        return f"all three products as now are alike: {rates(products)} TFLOP/s"
    slow = [str(line["key"]["product"]) for line in products if line["rate"] * UNEQUAL < max(speeds)]
    return f"as now, product {' and '.join(slow)} is the slow one: {rates(products)} TFLOP/s"


def result_of_dw(lines: Lines, sizes: Sizes) -> str | None:
    """float32 dW at full speed, or bfloat16 and a cast."""
    usual = {"product": 2, "library": "cublas", "vocab": sizes.padded[-1], "inner": sizes.padded_widths[-1]}
    usual |= {"rows": sizes.usual_rows, "beta": 0}
    wide, narrow = (first(lines, "gemm", out=out, **usual) for out in ("float32", "bfloat16"))
    if not wide or not narrow:
        return None
    share = wide["rate"] / narrow["rate"]
    verdict = "float32 dW" if share >= FLOAT32_RATE else "bfloat16 dW and one cast where there is one chunk"
    return f"{verdict}: float32 runs at {share:.2f} of bfloat16's rate"


def width(lines: Lines, sizes: Sizes) -> str | None:
    """The operands' pitch D'."""
    usual = {"product": 1, "library": "cublas", "rows": sizes.usual_rows, "vocab": sizes.padded[-1]}
    narrow, wide = (
        first(lines, "gemm", inner=inner, width=sizes.width, **usual) for inner in sizes.padded_widths
    )
    if not narrow or not wide:
        return None
    chosen = min(narrow, wide, key=lambda line: line["measured_us"])["key"]["inner"]
    times = ", ".join(f"{line['key']['inner']} takes {line['measured_us']:.0f} us" for line in (narrow, wide))
    return f"D' = {chosen}: {times}"


def vocabulary(lines: Lines, sizes: Sizes) -> str | None:
    """V', by the sum of the three products."""
    sums = {}
    for vocab in sizes.padded:
        products = three(lines, sizes, vocab=vocab)
        if products is None:
            return None
        sums[vocab] = sum(line["measured_us"] for line in products)
    chosen = min(sums, key=lambda vocab: sums[vocab])
    return f"V' = {chosen}: {', '.join(f'{vocab} takes {us:.0f} us' for vocab, us in sums.items())}"


def rounding(lines: Lines, sizes: Sizes) -> str | None:
    """N', by the time of a row in the three products."""
    costs = {}
    for rows in sizes.rows:
        products = three(lines, sizes, rows=rows)
        if products is None:
            return None
        costs[rows] = sum(line["measured_us"] for line in products)
    return "N': " + ", ".join(f"{rows} rows take {us:.0f} us" for rows, us in costs.items())


def row_kernel(lines: Lines, sizes: Sizes) -> str | None:
    """The variant of the cross-entropy kernel."""
    found = measured(lines, "ce", rows=sizes.decoded_rows[0])
    if not found:
        return None
    best = min(found, key=lambda line: line["measured_us"])
    others = ", ".join(f"{line['key']['variant']} {line['measured_us']:.0f} us" for line in found)
    enough = best["measured_us"] <= ROW_KERNEL_US
    end = "" if enough else f"; all above {ROW_KERNEL_US:.0f}: try copying the next row ahead (cp.async.bulk)"
    return f"row kernel {best['key']['variant']}: {others}{end}"


def chunk_rows(lines: Lines, sizes: Sizes) -> str | None:
    """Rows of a chunk of logits."""
    found = measured(lines, "chunk")
    if not found:
        return None
    best = min(found, key=lambda line: line["measured_us"])
    others = ", ".join(f"{line['key']['chunk']} {line['measured_us'] / 1e3:.2f} ms" for line in found)
    taken = f"; the library takes {best['library_takes']}" if "library_takes" in best else ""
    return f"chunks of {best['key']['chunk']} rows: {others}{taken}"


def idle(lines: Lines, sizes: Sizes) -> str | None:
    """Steps that wait for launches or for the host."""
    found = [
        line for part in ("head", "step") for line in measured(lines, part) if line.get("busy_over_wall")
    ]
    if not found:
        return None
    waiting = [
        f"{line['part']} {line['name']} ({line['busy_over_wall']:.2f}, {line['syncs']} syncs, "
        f"{line['kernels']} kernels)"
        for line in found
        if line["busy_over_wall"] < BUSY
    ]
    if not waiting:
        return f"no profiled step is busy for less than {BUSY:.2f} of its wall time"
    return "launches or syncs, not kernels: " + "; ".join(waiting)


RULES: tuple[Callable[[Lines, Sizes], str | None], ...] = (
    engine,
    library,
    fallbacks,
    unequal,
    result_of_dw,
    width,
    vocabulary,
    rounding,
    row_kernel,
    chunk_rows,
    idle,
)


def decide(lines: Lines, sizes: Sizes) -> dict[str, str]:
    """By rule, what the lines say so far."""
    found = {rule.__name__: rule(lines, sizes) for rule in RULES}
    return {name: verdict for name, verdict in found.items() if verdict}
