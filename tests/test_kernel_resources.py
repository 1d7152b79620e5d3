"""What `make cuda-build` reads from the library: a stack in any kernel, on any architecture, is a fault."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
if not TOOLS.is_dir():
    pytest.skip("the build's sources are not beside the tests", allow_module_level=True)
sys.path.insert(0, str(TOOLS))
from kernel_resources import Usage, find_faults, machine_architectures, read_usage, table  # noqa: E402

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
