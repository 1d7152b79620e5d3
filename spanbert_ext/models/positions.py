"""How long a row an encoder can read."""

from __future__ import annotations

from typing import Any

# Families that number their positions from the padding id on.
_FROM_PADDING = (
    *("camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "mpnet", "roberta"),
    *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)


def most_positions(config: Any) -> int | None:
    """Tokens of the longest row for a configuration's position table; None where there is no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions and config.model_type in _FROM_PADDING:
        positions -= config.pad_token_id + 1
    return positions or None
