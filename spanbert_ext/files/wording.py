# SPDX-License-Identifier: Apache-2.0
"""Numbers as people read them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """In the two largest units that it has: `3 d 4 h`, `2 h 5 min`, `40 s`; below ten seconds `4.2 s`, `80 ms`."""
    if 0 < seconds < 10:
        return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
    left, parts = round(seconds), []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size} {unit}")
        elif parts:
            break
        left %= size
    return " ".join(parts[:2])


def short(value: float) -> str:
    """A count with at most three digits: `1.23M`."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:  # which is 1,000 of the smaller unit in three digits
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
