# SPDX-License-Identifier: Apache-2.0
"""What a recipe is: a system of the paper as values of the command's options, with the reasons."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """One system. `options` are values of `Options` by name; an option that the user gives replaces its value.

    title: one line. paper: what is as in Joshi et al. 2020, or in the paper that the system is of. code: what the
    papers leave open, taken from published code. ours: what differs from both, and why."""

    name: str
    title: str
    options: Mapping[str, Any]
    paper: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()

    def describe(self) -> str:
        """The recipe for people, some lines of at most 100 characters."""
        lines = [f"Recipe {self.name}: {self.title}."]
        sides = (("as in the paper", self.paper), ("as in published code", self.code), ("ours", self.ours))
        for title, facts in sides:
            for number, fact in enumerate(facts):
                head = f"  {'' if number else title:<22}"
                lines += textwrap.wrap(fact, 100, initial_indent=head, subsequent_indent=" " * 24)
        return "\n".join(lines)
