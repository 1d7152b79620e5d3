# SPDX-License-Identifier: Apache-2.0
"""What the cross-entropy kernel of 16-bit logits costs, read from its machine code (SASS). No torch, no GPU.

The kernel reads a row three times: for its maximum, for the sum of its exponentials, for its gradient. It is bound by
memory only while those loops are short, and while enough blocks fit on a multiprocessor to hide each other's waiting:
two things that a build shows and a test of results does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

KERNEL = "cross_entropy_rows"  # what the names of its instances contain
SIXTEEN_BITS = ("bfloat16", "__half")  # and their types, as they are mangled
ARCHITECTURES = ("sm_90", "sm_90a")  # that the limits below are for

LOGITS_A_LOAD = 8  # in 16 bytes
MOST_INSTRUCTIONS = 12.0  # a logit, all loops: at 2.5 a clock the H200's memory is the slower one up to 17
USUAL = "Lb1ELb0E"  # mangled arguments of the instance that training runs: row kept in shared memory, no smoothing
MOST_ELSEWHERE = 24.0  # rows beyond shared memory are read again and searched, smoothing sums logits too

FEWEST_BLOCKS = 3  # on a multiprocessor
ROW_BYTES = 2 * 29_056  # of shared memory that a launch adds for the 28,996 words of cased BERT
WARP = 32
REGISTERS, REGISTER_UNIT = 65_536, 256  # of a multiprocessor; a warp's are handed out in such units
SHARED_BYTES = (
    228 * 1024
)  # of a multiprocessor; the KB that a block takes beside its own is in cuobjdump's figure
MOST_THREADS, MOST_BLOCKS = 2048, 32


class Loop(NamedTuple):
    kind: str  # "maximum", "sum", "gradient"
    instructions: int
    logits: int  # that one pass handles

    @property
    def per_logit(self) -> float:
        return self.instructions / self.logits


def is_row_kernel(name: str) -> bool:
    """Whether a mangled name is that of the kernel for a 16-bit type."""
    return KERNEL in name and any(kind in name for kind in SIXTEEN_BITS)


def threads_of(name: str) -> int:
    """Threads a block: the kernel's template argument, where its mangled name has one, else 512."""
    found = re.search(r"Li(128|256|512|1024)E", name)
    return int(found[1]) if found else 512


def resident_blocks(registers: int, shared: int, threads: int) -> int:
    """Blocks that a multiprocessor of sm_90 holds at a time. `shared`: bytes a block, with what the launch adds."""
    warps = -(-threads // WARP)
    warp_registers = -(-registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
    return min(
        REGISTERS // warp_registers // warps,
        SHARED_BYTES // max(shared, 1),
        MOST_THREADS // (warps * WARP),
        MOST_BLOCKS,
    )


def read_functions(sass: str) -> dict[str, list[tuple[int, str]]]:
    """The output of `cuobjdump --dump-sass`: by function, addresses and instructions."""
    functions: dict[str, list[tuple[int, str]]] = {}
    code: list[tuple[int, str]] = []
    for line in sass.splitlines():
        if found := re.match(r"\s*Function : (\w+)", line):
            code = functions.setdefault(found[1], [])
        elif found := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+([^;]+?)\s*;", line):
            code.append((int(found[1], 16), found[2]))
    return functions


def innermost_loops(code: list[tuple[int, str]]) -> Iterator[list[str]]:
    """The instructions from each backward branch's target to the branch, where no other such branch lies inside."""
    index = {address: i for i, (address, _) in enumerate(code)}
    ranges = []
    for i, (_, text) in enumerate(code):
        found = re.search(r"\bBRA(?:\.\w+)* (?:\w+, )?(?:`\(\.L_x_\w+\)|0x([0-9a-f]+))", text)
        target = index.get(int(found[1], 16)) if found and found[1] else None
        if target is not None and target < i:
            ranges.append((target, i))
    for begin, end in ranges:
        if not any(begin <= other < end for _, other in ranges):
            yield [text for _, text in code[begin : end + 1]]


def classify(body: list[str]) -> Loop | None:
    """The loop's kind, by the instructions that only this kind has; None for any other."""
    text = "\n".join(body)
    logits = LOGITS_A_LOAD * len(re.findall(r"\bLD[GS]?(?:\.\w+)*\.128\b", text))
    if not logits:
        return None
    if "MUFU.EX2" not in text:
        return Loop("maximum", len(body), logits) if "MNMX" in text else None
    stores = re.search(r"\bSTG?(?:\.\w+)*\.128\b", text)
    return Loop("gradient" if stores else "sum", len(body), logits)


def row_loops(code: list[tuple[int, str]]) -> list[Loop]:
    """The loops that almost all of a row passes through, one of each kind.

    A kind has others, for what unrolling leaves and for the end of the vocabulary: all dearer a logit.
    """
    best: dict[str, Loop] = {}
    for loop in filter(None, map(classify, innermost_loops(code))):
        if loop.kind not in best or loop.per_logit < best[loop.kind].per_logit:
            best[loop.kind] = loop
    return [best[kind] for kind in ("maximum", "sum", "gradient") if kind in best]


def loop_faults(name: str, loops: list[Loop]) -> list[str]:
    """A line where loops are missing or too long."""
    kinds = [loop.kind for loop in loops]
    if kinds[:2] != ["maximum", "sum"]:  # an instance without a gradient has no more
        return [f"{name}: found the loops {kinds}, expected maximum, sum (and gradient)"]
    cost = sum(loop.per_logit for loop in loops)
    most = MOST_INSTRUCTIONS if USUAL in name else MOST_ELSEWHERE
    if cost <= most:
        return []
    return [f"{name}: {cost:.1f} instructions a logit, expected at most {most:g}"]


def block_faults(name: str, sm: str, registers: int, shared: int) -> list[str]:
    """A line where too few blocks are resident. `shared`: bytes a block without what the launch adds."""
    blocks = resident_blocks(registers, shared + ROW_BYTES, threads_of(name))
    if blocks >= FEWEST_BLOCKS:
        return []
    return [f"{name}: {blocks} blocks a multiprocessor on {sm}, expected at least {FEWEST_BLOCKS}"]


def describe(name: str, sm: str, registers: int, shared: int, loops: list[Loop]) -> str:
    """A line for people."""
    threads = threads_of(name)
    parts = [f"{loop.kind} {loop.instructions}/{loop.logits}" for loop in loops]
    return (
        f"{sum(loop.per_logit for loop in loops):5.1f} instructions a logit ({', '.join(parts)}), "
        f"{resident_blocks(registers, shared + ROW_BYTES, threads)} blocks of {threads} on {sm}: {name}"
    )
