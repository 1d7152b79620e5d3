# SPDX-License-Identifier: Apache-2.0
"""What configures the heads of a model; kept in `config.span_pretraining`, which native classes carry along."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from spanbert_ext.ops._common import integer, real, shown, use_reference

DEFAULT_OPTIONS = {
    "nsp": False,
    "position_dim": 200,
    "position_slots": 20,
    "sbo_weight": 1.0,
    "label_smoothing": 0.0,
    "skip_unread_rows": True,
    "count_rows": True,
    "assume_all_text": False,
    "evaluation_loss": "mlm",
    "evaluation_logits": "auto",
    "impl": "fused",
}


def wants_nsp(saved: dict[str, Any] | None, given: bool | None) -> bool:
    """The option `nsp`, which decides on a model's class: the caller's, or the configuration's.

    Raises:
        ValueError: it is no bool.
    """
    nsp = (saved or {}).get("nsp", DEFAULT_OPTIONS["nsp"]) if given is None else given
    if not isinstance(nsp, bool):
        raise ValueError(f"nsp is {nsp!r}, expected True or False")
    return nsp


def resolve_options(saved: dict[str, Any] | None, given: dict[str, Any]) -> dict[str, Any]:
    """The defaults, replaced by the configuration's options and then by those of the caller that are not None.

    Raises:
        ValueError: an unknown option, or one of another type or out of range.
    """
    options = DEFAULT_OPTIONS | (saved or {}) | {name: x for name, x in given.items() if x is not None}
    unknown = options.keys() - DEFAULT_OPTIONS.keys()
    if unknown:
        raise ValueError(
            f"config.span_pretraining has unknown options {sorted(unknown)}; known: {sorted(DEFAULT_OPTIONS)}"
        )
    for name in ("position_dim", "position_slots"):
        options[name] = _number(
            name, options[name], integer, lambda size: size >= 1, "an integer of at least 1"
        )
    options["sbo_weight"] = _number(
        "sbo_weight", options["sbo_weight"], real, lambda x: 0 <= x < math.inf, "a finite number of 0 or more"
    )
    options["label_smoothing"] = _number(
        "label_smoothing",
        options["label_smoothing"],
        real,
        lambda x: 0 <= x < 1,
        "a number 0 <= label_smoothing < 1",
    )
    for name in ("nsp", "skip_unread_rows", "count_rows", "assume_all_text"):
        if not isinstance(options[name], bool):
            raise ValueError(f"{name} is {options[name]!r}, expected True or False")
    loss = options["evaluation_loss"]
    if not isinstance(loss, str) or loss not in ("mlm", "sum"):
        raise ValueError(f"evaluation_loss is {loss!r}, expected 'mlm' or 'sum'")
    use_reference(options["impl"])
    logits = options["evaluation_logits"]
    if not isinstance(logits, bool) and not (isinstance(logits, str) and logits == "auto"):
        raise ValueError(f"evaluation_logits is {logits!r}, expected 'auto', True or False")
    return options


def _number(
    name: str,
    value: Any,
    convert: Callable[[str, Any], float],
    fits: Callable[[float], bool],
    expected: str,
) -> float:
    """`value` as a number of Python's own, which config.json can hold; a bool, a tensor or a string is none."""
    try:
        number = convert(name, value)
    except (TypeError, ValueError):
        number = math.nan  # which is in no range
    if not fits(number):
        raise ValueError(f"{name} is {shown(value)}, expected {expected}")
    return number
