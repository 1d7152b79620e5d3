# SPDX-License-Identifier: Apache-2.0
"""Whether progress bars are drawn: those of a command, and those of transformers, with its reports."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


def bars_shown(progress: bool) -> bool:
    """Whether bars are drawn: where they are wanted, and standard error is a terminal. Elsewhere each of their states
    would stay, thousands of lines of a log."""
    return progress and sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside, transformers draws no bars and reports no missing weights, for callers who tell of them in a sentence."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with no_transformers_bars():
            yield
    finally:
        logging.set_verbosity(level)


@contextmanager
def no_transformers_bars() -> Iterator[None]:
    """Inside, neither transformers nor the hub's client draws bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
