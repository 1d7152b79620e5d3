# SPDX-License-Identifier: Apache-2.0
"""The path that a user names."""

from __future__ import annotations

import os
from pathlib import Path


def given_path(name: str | os.PathLike[str]) -> Path:
    """With `~` as the home folder. Where there is no such user the name stays as it is."""
    return Path(os.path.expanduser(name))
