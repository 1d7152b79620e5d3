# SPDX-License-Identifier: Apache-2.0
"""What an item contributes to the scores."""

from __future__ import annotations

from typing import NamedTuple


class ItemRow(NamedTuple):
    """One item of test data as one run answered it.

    `cluster` is what resampling draws as a whole (article, document, sentence; the item's own id where items are
    independent), `row` the numbers that the task's metrics read."""

    cluster: str
    item: str
    row: tuple[float, ...]
