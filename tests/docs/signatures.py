# SPDX-License-Identifier: Apache-2.0
"""What docs/api shows of each public name where no documentation is built: its signature and what it is in one line.
`python tests/docs/signatures.py` writes it into the pages."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path

from pages import DOCS

sys.path.append(str(Path(__file__).parents[1] / "build"))

from public_names import MODULES, RETURNED, described, signature_text  # noqa: E402

# A block of these stands before each one that Sphinx fills: the directive `signature` shows nothing on the site.
_DESCRIBED = re.compile(
    r"(?P<old>```\{signature\}\n.*?^```\n\n)?(?P<rst>```\{eval-rst\}\n(?P<text>.*?)^```\n)", re.M | re.S
)
_NAME = re.compile(r"^\.\. auto(?:class|function):: (spanbert_ext[.\w]+)", re.M)
_WIDTH = 100


def block(name: str) -> str:
    """The block of `name`, such as spanbert_ext.ops.span_mask: the lines that public_names.txt has of it, and what its
    docstring begins with."""
    module, _, last = name.rpartition(".")
    value = getattr(importlib.import_module(module), last)
    shown = last if name == RETURNED else name.removeprefix("spanbert_ext.")
    lines = list(described(shown, value)) if inspect.isclass(value) else [f"{shown}{signature_text(value)}"]
    if inspect.isclass(value) and "__call__" in vars(value):
        lines.insert(1, f"{shown}.__call__{signature_text(value.__call__)}")
    summary = " ".join(inspect.getdoc(value).partition("\n\n")[0].split())
    said = textwrap.fill(summary, _WIDTH, initial_indent="    ", subsequent_indent="    ")
    first, *rest = map(_wrapped, lines)
    return "\n".join([first, said, *rest])


def _wrapped(line: str) -> str:
    """`line` in lines that end behind a parameter."""
    depth, text = 0, ""
    for place, letter in enumerate(line):
        depth += (letter in "([") - (letter in ")]")
        between = letter == " " and depth == 1 and line[place - 1] == ","
        text += "\0" if letter == " " and not between else letter
    whole = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(text, _WIDTH, subsequent_indent="        ", **whole).replace("\0", " ")


def is_public(name: str) -> bool:
    return name == RETURNED or name.rpartition(".")[0] in MODULES


def with_signatures(page: str) -> str:
    """The page with the blocks that belong there, and no others."""

    def written(match: re.Match) -> str:
        names = [name for name in _NAME.findall(match["text"]) if is_public(name)]
        if not names:
            return match["rst"]
        signatures = "\n\n".join(map(block, names))
        return f"```{{signature}}\n{signatures}\n```\n\n{match['rst']}"

    return _DESCRIBED.sub(written, page)


def main() -> None:
    for path in (DOCS / "api").glob("*.md"):
        path.write_text(with_signatures(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
