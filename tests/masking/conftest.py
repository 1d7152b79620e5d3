# SPDX-License-Identifier: Apache-2.0
"""What the tests of the collator share."""

from __future__ import annotations

import pytest
from collator_samples import ragged_rows
from tiny_models import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return ragged_rows()
