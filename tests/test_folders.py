# SPDX-License-Identifier: Apache-2.0
"""What pytest passes over in silence."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest


def test_no_folder_of_tests_is_left_out(pytestconfig: pytest.Config) -> None:
    folders = [path for path in Path(__file__).parent.iterdir() if any(path.glob("test_*.py"))]
    patterns = pytestconfig.getini("norecursedirs")
    assert len(folders) > 5
    assert not [path.name for path in folders if any(fnmatch(path.name, pattern) for pattern in patterns)]
