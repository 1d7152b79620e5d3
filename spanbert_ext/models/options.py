# SPDX-License-Identifier: Apache-2.0
"""What configures the heads of a model; kept in `config.span_pretraining`, which native classes carry along."""

from __future__ import annotations

from typing import Any

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
        ValueError: an unknown option, or one out of range.
    """
    options = DEFAULT_OPTIONS | (saved or {}) | {name: x for name, x in given.items() if x is not None}
    unknown = options.keys() - DEFAULT_OPTIONS.keys()
    if unknown:
        raise ValueError(
            f"config.span_pretraining has unknown options {sorted(unknown)}; known: {sorted(DEFAULT_OPTIONS)}"
        )
    for name in ("position_dim", "position_slots"):
        if not isinstance(options[name], int) or options[name] < 1:
            raise ValueError(f"{name} is {options[name]!r}, expected an integer of at least 1")
    if not options["sbo_weight"] >= 0:
        raise ValueError(f"sbo_weight is {options['sbo_weight']!r}, expected 0 or more")
    if not 0 <= options["label_smoothing"] < 1:
        raise ValueError(
            f"label_smoothing is {options['label_smoothing']!r}, expected 0 <= label_smoothing < 1"
        )
    for name in ("nsp", "skip_unread_rows", "count_rows", "assume_all_text"):
        if not isinstance(options[name], bool):
            raise ValueError(f"{name} is {options[name]!r}, expected True or False")
    if options["evaluation_loss"] not in ("mlm", "sum"):
        raise ValueError(f"evaluation_loss is {options['evaluation_loss']!r}, expected 'mlm' or 'sum'")
    if options["impl"] not in ("fused", "reference"):
        raise ValueError(f"impl is {options['impl']!r}, expected 'fused' or 'reference'")
    logits = options["evaluation_logits"]
    if not isinstance(logits, bool) and logits != "auto":
        raise ValueError(f"evaluation_logits is {logits!r}, expected 'auto', True or False")
    return options
