# SPDX-License-Identifier: Apache-2.0
"""Evaluations in a log history: their entries by step, by mask law, by span length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHARED_LAWS = ("spans", "tokens")  # maskings that every run is judged under
# Bins of span lengths in tokens, and the shortest length of each.
LENGTHS = {"1": 1, "2": 2, "3": 3, "4": 4, "5-6": 5, "7-8": 7, "9-12": 9, "13+": 13}


def laws_of(masking: str) -> tuple[str, ...]:
    """The maskings that a run's held-out text is judged under: its own `masking`, then the shared ones."""
    return tuple(dict.fromkeys((masking, *SHARED_LAWS)))


def evaluations_to_come(step: int, max_steps: int, every: int) -> int:
    """How many there are after `step`, with the one at the last step; that of step 0 is none of them."""
    return -(-max_steps // every) - step // every


def evaluation_seconds(history: Sequence[Mapping[str, Any]]) -> float:
    """Of the last evaluation in a log history, under all laws; 0 where there is none."""
    found = evaluations(history)
    last = found[max(found)] if found else {}
    return sum(value for name, value in last.items() if name.endswith("_runtime"))


def evaluations(history: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
    """The evaluations of a log history by step, each with the entries of all laws."""
    found: dict[int, dict[str, Any]] = {}
    for log in history:
        entries = {name: value for name, value in log.items() if name.startswith("eval_")}
        if entries:
            found.setdefault(log["step"], {}).update(entries)
    return found


def by_law(evaluation: Mapping[str, float], masking: str) -> dict[str, dict[str, Any]]:
    """An evaluation's entries sorted for metrics.json: for the run's own `masking` and each shared law its losses and
    accuracies, and `by_span_length`, rows of `length`, `tokens`, `mlm_accuracy`, `sbo_accuracy`."""
    laws = {}
    others = tuple(f"eval_{law}_" for law in SHARED_LAWS if law != masking)
    for law in laws_of(masking):
        prefix = "eval_" if law == masking else f"eval_{law}_"
        found = {
            name.removeprefix(prefix): value
            for name, value in sorted(evaluation.items())  # a resumed run reads its history sorted
            if name.startswith(prefix) and not (law == masking and name.startswith(others))
        }
        if not found:
            continue
        rows = []
        for length in LENGTHS:
            if f"count_length_{length}" in found:
                row = {"length": length, "tokens": found[f"count_length_{length}"]}
                for head in ("mlm", "sbo"):
                    row[f"{head}_accuracy"] = found.get(f"{head}_accuracy_length_{length}")
                rows.append(row)
        kept = {
            name: value
            for name, value in found.items()
            if name.startswith(("mlm_", "sbo_", "nsp_")) and "_length_" not in name
        }
        laws[law] = kept | {"by_span_length": rows}
    return laws
