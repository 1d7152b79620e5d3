# SPDX-License-Identifier: Apache-2.0
"""What a run prints and writes: lines of progress, files, tables."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Progress:
    """Lines on stderr with the seconds since the start; `throttle`d lines come at most twice a second."""

    def __init__(self, quiet: bool = False) -> None:
        self.begin = time.perf_counter()
        self.last_line = 0.0
        self.quiet = quiet

    def __call__(self, text: str, throttle: bool = False) -> None:
        now = time.perf_counter()
        if self.quiet or (throttle and now - self.last_line < 0.5):
            return
        self.last_line = now
        print(f"[{now - self.begin:7.1f} s] {text}", file=sys.stderr, flush=True)


def check_outputs(*paths: Path | None) -> None:
    """Makes the folders of the files that a run will write. OSError now, not after minutes of measuring."""
    for path in paths:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            existed = path.exists()
            path.open("a").close()
            if not existed:
                path.unlink()  # a run that fails leaves no empty report


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """In one go: a program that is stopped leaves the old file or the new one."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(report, indent=2) + "\n")
    part.replace(path)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
