# SPDX-License-Identifier: Apache-2.0
"""Whether progress bars are drawn: those of a command, and those of the libraries that it calls."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def bars_shown(progress: bool) -> bool:
    """Whether bars are drawn: where they are wanted, and standard error is a terminal. Elsewhere each of their states
    would stay, thousands of lines of a log."""
    return progress and sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def library_bars(progress: bool) -> Iterator[None]:
    """Inside, the datasets library, transformers and the hub's client draw bars where `bars_shown` and nowhere else."""
    import datasets  # only now: --help and wrong options answer at once
    from transformers.utils import logging

    if bars_shown(progress):
        yield
        return
    tables, models = not datasets.are_progress_bars_disabled(), logging.is_progress_bar_enabled()
    if tables:
        datasets.disable_progress_bars()
    if models:
        logging.disable_progress_bar()  # and the hub client's
    try:
        yield
    finally:
        if tables:
            datasets.enable_progress_bars()
        if models:
            logging.enable_progress_bar()
