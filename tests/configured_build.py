# SPDX-License-Identifier: Apache-2.0
"""What CMake makes of the sources: configured in a folder of the test's own, nothing compiled."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
needs_sources = pytest.mark.skipif(
    not (ROOT / "CMakeLists.txt").exists(), reason="the build's sources are not beside the tests"
)


def configure(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    ninja = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    if cmake is None or ninja is None:
        pytest.skip("needs cmake and ninja")
    pytest.importorskip("pybind11")  # beside a wheel nothing that builds it is installed
    command = [cmake, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    given = [
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-DSPANBERT_EXT_TORCH_DIR={Path(torch.__file__).parent}",
    ]
    return subprocess.run([*command, *given, *options], capture_output=True, text=True)
