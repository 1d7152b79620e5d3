"""How long a row an encoder can read."""

from __future__ import annotations

from typing import Any


def most_positions(config: Any) -> int | None:
    """Tokens of the longest row for a configuration's position table; None where there is no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions and config.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= config.pad_token_id + 1  # these number their positions from the padding id on
    return positions or None
