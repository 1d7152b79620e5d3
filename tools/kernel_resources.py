# SPDX-License-Identifier: Apache-2.0
"""Reads from the installed extension what each CUDA kernel uses, and fails where one uses more than it may.

cuobjdump reads the library itself, so the answer does not depend on a build log, ninja or ccache. A stack is where
ptxas puts spilled registers and arrays with an index known only at run time: slow memory, which no kernel here may
use. The kernel that reads every logit has limits of its own, see row_kernel.py.
Run with the environment's Python: it needs spanbert_ext with its CUDA kernels, and cuobjdump (CUDA's or triton's).
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from row_kernel import (
    ARCHITECTURES,
    KERNEL,
    block_faults,
    describe,
    is_row_kernel,
    loop_faults,
    read_functions,
    row_loops,
)


class Usage(NamedTuple):
    registers: int  # per thread
    stack: int  # bytes per thread, in local memory
    shared: int  # bytes per block, without what a launch adds


Kernels = dict[str, dict[str, Usage]]  # by kernel, then by architecture: "sm_90"


def read_usage(dump: str) -> Kernels:
    """The output of `cuobjdump --dump-resource-usage`."""
    kernels: Kernels = {}
    architecture = name = ""
    for line in dump.splitlines():
        if found := re.match(r"arch = (\w+)", line):
            architecture = found[1]
        elif found := re.match(r" *Function (\w+):", line):
            name = found[1]
        elif found := re.match(r" *REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, found.groups())
            kernels.setdefault(name, {})[architecture] = Usage(registers, stack + local, shared)
    return kernels


def machine_architectures(names: str) -> list[str]:
    """CMake's names, "80-real 90-virtual 120", without those that are compiled to PTX alone: sm_80, sm_120."""
    return ["sm_" + name.removesuffix("-real") for name in names.split() if not name.endswith("-virtual")]


def find_faults(kernels: Kernels, architectures: list[str]) -> list[str]:
    """What is wrong, a line each: no kernels, a kernel that lacks an architecture, a stack."""
    faults = [] if kernels else ["the library holds no CUDA kernels"]
    for name, usages in kernels.items():
        faults += [f"{name}: not compiled for {sm}" for sm in architectures if sm not in usages]
        faults += [
            f"{name}: {usage.stack} bytes of stack on {sm}, expected 0 (spilled registers or a local array)"
            for sm, usage in usages.items()
            if usage.stack
        ]
    return faults


def row_kernels(kernels: Kernels, sass: dict[str, str]) -> tuple[list[str], list[str]]:
    """What the row kernels cost, and what is wrong with it, a line each. `sass`: their code by architecture."""
    lines, faults = [], []
    for sm, dump in sass.items():
        functions = read_functions(dump)
        names = [name for name, usages in kernels.items() if is_row_kernel(name) and sm in usages]
        if not names:
            faults.append(f"no kernel {KERNEL} for a 16-bit type on {sm}")
        for name in sorted(names):
            registers, _, shared = kernels[name][sm]
            loops = row_loops(functions.get(name, []))
            lines.append(describe(name, sm, registers, shared, loops))
            faults += loop_faults(name, loops) + block_faults(name, sm, registers, shared)
    return lines, faults


def table(kernels: Kernels) -> str:
    """A line per kernel and architecture."""
    lines = [f"{'registers':>9} {'stack':>6} {'shared':>7}  {'on':7} kernel"]
    lines += [
        f"{usage.registers:9} {usage.stack:6} {usage.shared:7}  {sm:7} {name}"
        for name, usages in sorted(kernels.items())
        for sm, usage in usages.items()
    ]
    return "\n".join(lines)


def demangle(text: str) -> str:
    """The text with readable names, where binutils are there; for people: overloads look alike."""
    if shutil.which("c++filt") is None:
        return text
    command = ["c++filt", "--no-params"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def find_cuobjdump() -> str:
    """CUDA's own, or the one that torch's triton brings along: a toolkit of nvcc alone has none."""
    triton = importlib.util.find_spec("triton")
    folders = triton.submodule_search_locations if triton else None
    beside_triton = Path(folders[0], "backends", "nvidia", "bin") if folders else None
    found = shutil.which("cuobjdump") or shutil.which("cuobjdump", path=beside_triton)
    if found is None:
        raise SystemExit("cuobjdump was found neither on the PATH nor in triton's package")
    return found


def dump(*options: str) -> str:
    """The output of cuobjdump on the installed library."""
    from spanbert_ext import _C

    command = [find_cuobjdump(), *options, str(_C.__file__)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    from spanbert_ext import build_info

    kernels = read_usage(dump("--dump-resource-usage"))
    architectures = machine_architectures(str(build_info()["cuda_architectures"]))
    counted = [sm for sm in architectures if sm in ARCHITECTURES]
    sass = {sm: dump("--dump-sass", "--gpu-architecture", sm) for sm in counted}
    lines, faults = row_kernels(kernels, sass)
    print(demangle("\n".join([table(kernels), *lines])))
    sys.exit(demangle("\n".join(find_faults(kernels, architectures) + faults)) or 0)


if __name__ == "__main__":
    main()
