# SPDX-License-Identifier: Apache-2.0
"""What the compiler is told: read in the rules that CMake writes."""

from __future__ import annotations

import re
from pathlib import Path

from configured_build import ROOT, configure, needs_sources


def flags_of(rules: str) -> dict[str, set[str]]:
    """The flags of each object file, by its path below CMakeFiles."""
    found = {}
    for text in re.split(r"^build ", rules, flags=re.MULTILINE):
        if target := re.match(r"CMakeFiles/(\S+\.o):", text):
            found[target[1]] = set(re.search(r"^  FLAGS = (.*)$", text, re.MULTILINE)[1].split())
    return found


@needs_sources
def test_warnings_are_errors_where_asked_and_features_are_those_that_the_sources_name(tmp_path: Path) -> None:
    plain, strict = tmp_path / "plain", tmp_path / "strict"
    done = [
        configure(plain, "-DSPANBERT_EXT_CUDA=OFF"),
        configure(strict, "-DSPANBERT_EXT_CUDA=OFF", "-DSPANBERT_EXT_WERROR=ON"),
    ]
    assert [each.returncode for each in done] == [0, 0], done
    flags = flags_of((plain / "build.ninja").read_text())
    for path, with_errors in flags_of((strict / "build.ninja").read_text()).items():
        assert with_errors - flags[path] == {"-Werror"} and flags[path] < with_errors
    assert len(flags) > 10

    header = (ROOT / "csrc" / "common" / "instruction_sets.h").read_text()
    features: set[str] = set()
    for name, line in re.findall(r"^#define SPANBERT_EXT_(\w+)\(X\) (.*)$", header, re.MULTILINE):
        features |= {f"-m{feature}" for feature in re.findall(r'"(\w+)"', line)}
        objects = [path for path in flags if path.startswith(f"cpu_kernels_{name}.dir/")]
        for path in objects:
            assert {flag for flag in flags[path] if flag.startswith("-m")} == features, path
    for path in flags:
        if path.startswith(("cpu_kernels_DEFAULT.dir/", "_C.dir/")):
            assert not {flag for flag in flags[path] if flag.startswith("-m")}


@needs_sources
def test_make_asks_for_errors_and_pip_passes_it_on() -> None:
    assert re.search(r"^export SPANBERT_EXT_WERROR \?= ON$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "SPANBERT_EXT_WERROR" in (ROOT / "setup.py").read_text()
