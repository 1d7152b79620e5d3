# SPDX-License-Identifier: Apache-2.0
"""Names in commands that a user is told to give: each is one word of a shell, and the place that it names."""

from __future__ import annotations

import os
import shlex


def word(text: str) -> str:
    """`text` as one word of a shell. What a terminal would obey, and bytes that are no characters, stand as escapes,
    which bash, zsh and ksh read."""
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(map(_escaped, text)) + "'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    of_a_name = "\udc80" <= character <= "\udcff"  # a byte that the file system's encoding has not
    data = character.encode("utf-8", "surrogateescape" if of_a_name else "surrogatepass")
    return "".join(f"\\x{byte:02x}" for byte in data)


def place(path: str | os.PathLike[str]) -> str:
    """A path as one word that no command takes for an option."""
    name = os.fspath(path)
    return word(f"./{name}" if name.startswith("-") else name)


def option(flag: str, value: str) -> str:
    """An option with a value, whatever that begins with."""
    return word(f"{flag}={value}") if value.startswith("-") else f"{flag} {word(value)}"
