# SPDX-License-Identifier: Apache-2.0
"""Checks which versions of the C and C++ libraries a shared library was linked against.

  python tools/library_needs.py build/device/site/spanbert_ext/_C*.so GLIBC=2.39 GLIBCXX=3.4.33

A library that was built where they are newer than where it is to run does not load there. Reads `objdump -T`.
"""

from __future__ import annotations

import re
import subprocess
import sys

Version = tuple[int, ...]


def parse_version(text: str) -> Version:
    return tuple(map(int, text.split(".")))


def newest_needed(symbols: str) -> dict[str, str]:
    """The output of `objdump -T`: per library (GLIBC, GLIBCXX, CXXABI) the newest version of an undefined symbol."""
    newest: dict[str, str] = {}
    for line in symbols.splitlines():
        found = re.search(r"\*UND\*.*\((GLIBC|GLIBCXX|CXXABI)_([\d.]+)\)", line)
        if found and parse_version(found[2]) > parse_version(newest.get(found[1], "0")):
            newest[found[1]] = found[2]
    return newest


def find_faults(needed: dict[str, str], available: dict[str, str]) -> list[str]:
    """A line for each library that has to be newer than the one at hand."""
    return [
        f"needs {name} {needed[name]}, there is {version}"
        for name, version in available.items()
        if name in needed and parse_version(needed[name]) > parse_version(version)
    ]


def main(arguments: list[str]) -> int:
    library, *limits = arguments
    command = ["objdump", "-T", library]
    needed = newest_needed(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    print(f"{library} needs {', '.join(f'{name} {version}' for name, version in sorted(needed.items()))}")
    faults = find_faults(needed, dict(limit.split("=") for limit in limits))
    print(*faults, sep="\n", end="\n" if faults else "")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
