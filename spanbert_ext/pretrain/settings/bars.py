# SPDX-License-Identifier: Apache-2.0
"""Whether the libraries that make tables and models draw progress bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spanbert_ext.files.bars import bars_shown, no_transformers_bars


@contextmanager
def library_bars(progress: bool) -> Iterator[None]:
    """Inside, the datasets library, transformers and the hub's client draw bars where `bars_shown` and nowhere else."""
    import datasets  # only now: --help and wrong options answer at once

    if bars_shown(progress):
        yield
        return
    shown = not datasets.are_progress_bars_disabled()
    if shown:
        datasets.disable_progress_bars()
    try:
        with no_transformers_bars():
            yield
    finally:
        if shown:
            datasets.enable_progress_bars()
