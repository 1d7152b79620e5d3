# SPDX-License-Identifier: Apache-2.0
"""Errors of libraries and of the command line in one line."""

from __future__ import annotations

import argparse
import difflib
import re
from typing import NoReturn

_LONGEST = 300  # characters


def reason(error: BaseException) -> str:
    """What an error says, in one line; its type where it says nothing."""
    text = " ".join(str(error).split())
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + " ..."
    return text or type(error).__name__


def escaped(text: str) -> str:
    """Without what a terminal would obey: control and format characters, and halves of characters, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one sentence with the spelling that was perhaps meant; the usage, of dozens of lines,
    is left to --help."""

    def error(self, message: str) -> NoReturn:
        known = list(self._option_string_actions)
        if given := re.match(r"unrecognized arguments: (--[^\s=]+)", message):
            meant = difflib.get_close_matches(given[1], known, 1)
        elif given := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            meant = difflib.get_close_matches(given[1], re.findall(r"[^\s,']+", given[2]), 1)
        else:
            meant = []
        advice = f"perhaps {meant[0]}" if meant else "--help tells the options"
        self.exit(2, f"{self.prog}: error: {message}; {advice}\n")
