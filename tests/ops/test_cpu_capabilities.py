# SPDX-License-Identifier: Apache-2.0
"""The operators' tests again with every lower instruction set, which a process chooses once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spanbert_ext import build_info

CAPABILITIES = ("default", "avx2", "avx512")
SELECTED = {
    "test_boundary_mlp_modes.py": ["test_every_dtype_is_near_float64"],
    "test_span_mask.py": [
        "test_rows_worked_by_hand_give_their_masks",
        "test_fused_is_the_reference_bit_for_bit",
        "test_long_rows_equal_the_reference",
        "test_threads_and_batch_split_change_nothing",
    ],
    "test_vocab_ce.py": [
        "test_float64_equals_reference",
        "test_extreme_and_uniform_logits_equal_the_reference",
        "test_extreme_biases_equal_the_reference_at_any_number_of_rows",
    ],
    "test_vocab_ce_cpu.py": ["test_gradients_that_are_no_normal_numbers_are_zero"],
}
RUN = """
import sys
import pytest
from spanbert_ext import build_info
assert build_info()["cpu_capability"] == sys.argv[1], build_info()
sys.exit(pytest.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_instruction_set_passes_the_tests_of_the_best(capability: str) -> None:
    """One process for all operators: most of its time is its start."""
    best = str(build_info()["cpu_capability"])
    if CAPABILITIES.index(capability) > CAPABILITIES.index(best):
        pytest.skip(f"this CPU has no {capability}, or may not use it: {best} is the best")
    if capability == best:
        pytest.skip(f"{capability} is what this process runs the same tests with")
    folder = Path(__file__).parent
    tests = [f"{folder / file}::{name}" for file, names in SELECTED.items() for name in names]
    result = subprocess.run(
        [sys.executable, "-c", RUN, capability, "-q", "-p", "no:cacheprovider", *tests],
        check=False,
        env={**os.environ, "SPANBERT_EXT_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
