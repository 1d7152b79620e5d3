# SPDX-License-Identifier: Apache-2.0
"""Files of a run that others read while it goes on or after it: JSON that is whole at any time, and always valid."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spanbert_ext.files.disk import write_synced

HISTORY_FILE = "history.json"  # Trainer's log history up to the last evaluation
SAMPLES_FILE = "samples.json"  # masked spans of held-out text with what each head fills in, and the step


def write_json(value: Any, path: Path) -> None:
    """Writes `value`, with null for what is no finite number; a reader sees the old file or the new one."""
    write_synced(json.dumps(finite(value), indent=2, allow_nan=False) + "\n", path)


def finite(value: Any) -> Any:
    """`value` with None in the place of NaN and infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite(x) for name, x in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(x) for x in value]
    return value
