"""Errors of libraries in one line."""

from __future__ import annotations

_LONGEST = 300  # characters


def reason(error: BaseException) -> str:
    """What an error says, in one line; its type where it says nothing."""
    text = " ".join(str(error).split())
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + " ..."
    return text or type(error).__name__
