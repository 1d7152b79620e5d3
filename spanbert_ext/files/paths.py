# SPDX-License-Identifier: Apache-2.0
"""The paths that a user names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def empty_name(names: Mapping[str, str | None], expected: str = "a name") -> str | None:
    """What is wrong with the first that is empty, as a variable that is not set leaves it: Python would take it for the
    current folder. names: what is given, by what it is given as (`--output`)."""
    for given_as, name in names.items():
        if name is not None and not name.strip():
            return f"{given_as} is empty (an unset variable?), expected {expected}"
    return None


def given_path(name: str | os.PathLike[str]) -> Path:
    """With `~` as the home folder. Where there is no such user the name stays as it is."""
    return Path(os.path.expanduser(name))
