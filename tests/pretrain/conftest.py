# SPDX-License-Identifier: Apache-2.0
"""What the tests of runs share: a text, and a finished run on it that no test changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import finished_run, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def left_alone(corpus, tmp_path_factory) -> Path:
    return finished_run(corpus, tmp_path_factory.mktemp("run"))
