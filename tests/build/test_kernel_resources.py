# SPDX-License-Identifier: Apache-2.0
"""What `make cuda-build` reads from the library: a stack in any kernel, and a row kernel that costs too much."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
if not TOOLS.is_dir():
    pytest.skip("the build's sources are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(TOOLS))
from kernel_resources import (  # noqa: E402
    Usage,
    find_faults,
    machine_architectures,
    read_usage,
    row_kernels,
    table,
)
from row_kernel import (  # noqa: E402
    Loop,
    is_row_kernel,
    read_functions,
    resident_blocks,
    row_loops,
    threads_of,
)

DUMP = """
Fatbin elf code:
================
arch = sm_80
code version = [1,8]
compile_size = 64bit

Resource usage:
 Common:
  GLOBAL:0
 Function _ZN12spanbert_ext4goodIfEEvPT_l:
  REG:10 STACK:0 SHARED:512 LOCAL:0 CONSTANT[0]:368 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function spills:
  REG:64 STACK:40 SHARED:0 LOCAL:0 CONSTANT[0]:364 TEXTURE:0 SURFACE:0 SAMPLER:0

Fatbin elf code:
================
arch = sm_90a

Resource usage:
 Common:
  GLOBAL:0
 Function _ZN12spanbert_ext4goodIfEEvPT_l:
  REG:12 STACK:0 SHARED:512 LOCAL:0 CONSTANT[0]:528 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function spills:
  REG:32 STACK:0 SHARED:0 LOCAL:8 CONSTANT[0]:528 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
GOOD = "_ZN12spanbert_ext4goodIfEEvPT_l"


def test_every_kernel_is_read_on_every_architecture() -> None:
    assert read_usage(DUMP) == {
        GOOD: {"sm_80": Usage(10, 0, 512), "sm_90a": Usage(12, 0, 512)},
        "spills": {"sm_80": Usage(64, 40, 0), "sm_90a": Usage(32, 8, 0)},
    }


def test_stacks_and_local_memory_are_faults_and_name_kernel_and_architecture() -> None:
    assert find_faults(read_usage(DUMP), ["sm_80", "sm_90a"]) == [
        "spills: 40 bytes of stack on sm_80, expected 0 (spilled registers or a local array)",
        "spills: 8 bytes of stack on sm_90a, expected 0 (spilled registers or a local array)",
    ]


def test_a_missing_architecture_is_a_fault() -> None:
    kernels = {GOOD: {"sm_80": Usage(10, 0, 0)}}
    assert find_faults(kernels, ["sm_80"]) == []
    assert find_faults(kernels, ["sm_80", "sm_120"]) == [f"{GOOD}: not compiled for sm_120"]


def test_a_library_without_kernels_is_a_fault() -> None:
    assert find_faults(read_usage(""), []) == ["the library holds no CUDA kernels"]


def test_architectures_without_machine_code_are_not_expected() -> None:
    names = "80-real 90a-real 100-virtual 120"
    assert machine_architectures(names) == ["sm_80", "sm_90a", "sm_120"]


def test_the_table_has_a_line_per_kernel_and_architecture() -> None:
    lines = table(read_usage(DUMP)).splitlines()
    assert lines[1].split() == ["10", "0", "512", "sm_80", GOOD]
    assert len(lines) == 5


# --- The row kernel -----------------------------------------------------------------------------------------------

# All loops of a kernel with 512 threads and two packs unrolled, for sm_90: the three that count, the end of the
# vocabulary (which is branchy), the search for the maximum's column, and zeros for dead rows.
SASS = (Path(__file__).parent / "row_kernel.sass").read_text()
ROWS = "_ZN12spanbert_ext18cross_entropy_rowsI13__nv_bfloat16Li512ELi2ELi3ELb1ELb0EEEvNS_12CrossEntropyE"
WIDE = "_ZN12spanbert_ext18cross_entropy_wideIfEEvNS_12CrossEntropyE"
FITS = {ROWS: {"sm_90": Usage(40, 0, 1296)}, WIDE: {"sm_90": Usage(64, 0, 4096)}}


def test_the_loops_of_a_row_are_counted_and_the_others_are_not() -> None:
    functions = read_functions(SASS)
    assert list(functions) == [ROWS, WIDE]
    assert row_loops(functions[ROWS]) == [
        Loop("maximum", 15, 16),
        Loop("sum", 70, 16),
        Loop("gradient", 84, 16),
    ]
    assert row_loops(functions[WIDE]) == []


def test_a_row_kernel_within_its_limits_is_described_without_a_fault() -> None:
    lines, faults = row_kernels(FITS, {"sm_90": SASS})
    assert faults == []
    (line,) = lines
    assert line.split()[0] == "10.6" and "3 blocks of 512 on sm_90" in line and line.endswith(ROWS)


def test_more_instructions_in_a_loop_are_a_fault() -> None:
    multiplied = SASS.replace("FADD R32, R31, R32 ;", "FADD R32, R31, R32 ;\n" + "/*17f1*/ NOP ;\n" * 32)
    _, faults = row_kernels(FITS, {"sm_90": multiplied})
    assert faults == [f"{ROWS}: 12.6 instructions a logit, expected at most 12"]


def test_instances_that_training_does_not_run_may_have_twice_as_many() -> None:
    name = ROWS.replace("Lb1ELb0E", "Lb1ELb1E")
    longer = SASS.replace(ROWS, name).replace(
        "FADD R32, R31, R32 ;", "FADD R32, R31, R32 ;\n" + "/*17f1*/ NOP ;\n" * 200
    )
    kernels = {name: FITS[ROWS]}
    assert row_kernels(kernels, {"sm_90": longer})[1] == []
    longer = longer.replace("/*17f1*/ NOP ;\n", "/*17f1*/ NOP ;\n" * 2)
    assert row_kernels(kernels, {"sm_90": longer})[1] == [
        f"{name}: 35.6 instructions a logit, expected at most 24"
    ]


def test_too_few_resident_blocks_are_a_fault() -> None:
    kernels = {ROWS: {"sm_90": Usage(48, 0, 1296)}}
    _, faults = row_kernels(kernels, {"sm_90": SASS})
    assert faults == [f"{ROWS}: 2 blocks a multiprocessor on sm_90, expected at least 3"]


def test_a_kernel_whose_loops_are_not_found_is_a_fault() -> None:
    without_exponentials = SASS.replace("MUFU.EX2", "MUFU.RCP")
    _, faults = row_kernels(FITS, {"sm_90": without_exponentials})
    assert faults == [f"{ROWS}: found the loops ['maximum'], expected maximum, sum (and gradient)"]


def test_a_library_without_the_row_kernel_is_a_fault() -> None:
    assert row_kernels({WIDE: FITS[WIDE]}, {"sm_90": SASS})[1] == [
        "no kernel cross_entropy_rows for a 16-bit type on sm_90"
    ]
    assert row_kernels(FITS, {}) == ([], [])  # not compiled for it


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "blocks"),
    [
        (40, 59_408, 512, 3),  # the row in shared memory decides
        (43, 0, 512, 2),  # 44 registers and more are 48: handed out by 256 a warp
        (62, 0, 1024, 1),
        (64, 59_408, 256, 3),
        (16, 0, 32, 32),
        (16, 232_448, 32, 1),
    ],
)
def test_resident_blocks(registers: int, shared: int, threads: int, blocks: int) -> None:
    assert resident_blocks(registers, shared, threads) == blocks


def test_names_of_row_kernels() -> None:
    assert is_row_kernel(ROWS) and not is_row_kernel(WIDE)
    assert is_row_kernel(ROWS.replace("13__nv_bfloat16", "6__half"))
    assert not is_row_kernel(ROWS.replace("13__nv_bfloat16", "f"))
    assert threads_of(ROWS) == 512 and threads_of(ROWS.replace("Li512E", "Li256E")) == 256
    assert threads_of(WIDE) == 512
