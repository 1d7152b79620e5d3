# SPDX-License-Identifier: Apache-2.0
"""What readers raise."""

from __future__ import annotations

from pathlib import Path


class DataError(ValueError):
    """Data that cannot be used: the message begins with the file, and the line or the JSON path where it has one.

    `line` counts from 1; `where` is a place inside a file that is not read by lines, as `data[3].paragraphs[0]`."""

    def __init__(self, file: Path | str, message: str, *, line: int | None = None, where: str = "") -> None:
        place = str(file) if line is None else f"{file}:{line}"
        super().__init__(f"{place}: {where}: {message}" if where else f"{place}: {message}")
