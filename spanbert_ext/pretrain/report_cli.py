# SPDX-License-Identifier: Apache-2.0
"""`spanbert-report`: what runs have learned, as a table in the terminal and a page for a browser."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from spanbert_ext.files.messages import CommandParser
from spanbert_ext.files.output import lasting_output
from spanbert_ext.files.packages import missing_packages
from spanbert_ext.files.paths import empty_name, given_path
from spanbert_ext.pretrain.report.figures import terminal_table
from spanbert_ext.pretrain.report.run_reader import ReportError, find_runs

_DESCRIPTION = """Reports runs of spanbert-pretrain, finished or not: a table here, and one HTML page with losses,
speed, memory, accuracy by span length and masked spans, side by side. The page is a single file and needs no
network."""


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog="spanbert-report", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="DIR",
        help="--output of a run, or a folder with several of them",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="the page (default: report.html in the run's folder; of several runs in the current folder)",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 for what the user can correct."""
    with lasting_output():
        return _command(arguments)


def _command(arguments: Sequence[str] | None) -> int:
    given = build_parser().parse_args(arguments)
    if missing := missing_packages(""):
        print(f"spanbert-report: error: {missing}", file=sys.stderr)
        return 2
    from spanbert_ext.pretrain.report.page import GENERATOR, build_page  # which need NumPy

    try:
        for name in given.folders:
            if wrong := empty_name({"DIR": name, "--output": given.output}):
                raise ReportError(wrong)
        runs = find_runs([given_path(folder) for folder in given.folders])
        path = given_path(given.output or _default_path([run.folder for run in runs]))
        _write_page(build_page(runs), path, GENERATOR)
    except ReportError as error:
        print(f"spanbert-report: error: {error}", file=sys.stderr)
        return 2
    print(terminal_table(runs))
    for run in runs:
        for problem in run.problems:
            print(f"spanbert-report: warning: {run.name}: {problem}", file=sys.stderr)
    print(f"\nPage: {path}")
    return 0


def _default_path(folders: Sequence[Path]) -> Path:
    return folders[0] / "report.html" if len(folders) == 1 else Path("report.html")


def _write_page(page: str, path: Path, generator: str) -> None:
    """generator: what stands in every page of this command.

    Raises `ReportError` where the file is none of this command's, or cannot be written."""
    try:
        if path.is_dir():
            raise ReportError(f"--output {path} is a folder; expected a file")
        if (
            path.exists()
            and f'content="{generator}"' not in path.read_text(encoding="utf-8", errors="replace")[:2000]
        ):
            raise ReportError(f"--output {path} exists and is no report of this command: choose another name")
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(page, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ReportError(f"--output {path} cannot be written: {error.strerror or error}") from error


if __name__ == "__main__":
    sys.exit(main())
