# SPDX-License-Identifier: Apache-2.0
"""Values of a JSON file that know their place in it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spanbert_ext.evaluate.data.errors import DataError

_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "true or false", int: "a whole number"}

_HALF = re.compile("[\ud800-\udfff]")  # JSON can write a surrogate without its other half; UTF-8 cannot


@dataclass(frozen=True, slots=True)
class Value:
    """What stands at `where` (`data[3].paragraphs[0]`) of a file, or of its line `line`. Everything asked of it that
    it is not raises `DataError` with that place."""

    file: Path | str
    where: str
    content: object
    line: int | None = None

    def error(self, message: str) -> DataError:
        return DataError(self.file, message, line=self.line, where=self.where)

    def _of(self, kind: type) -> object:
        if type(self.content) is not kind:  # a bool is an int
            shown = repr(self.content)
            shown = shown if len(shown) <= 60 else shown[:60] + " ..."
            raise self.error(f"expected {_KINDS[kind]}, found {shown}")
        return self.content

    def has(self, key: str) -> bool:
        return key in self._of(dict)

    def __getitem__(self, key: str) -> Value:
        content = self._of(dict)
        if key not in content:
            meant = difflib.get_close_matches(key, content, 1)
            advice = f"; perhaps {meant[0]!r} is meant" if meant else ""
            raise self.error(f"has no {key!r}{advice}")
        return Value(self.file, f"{self.where}.{key}" if self.where else key, content[key], self.line)

    def items(self) -> Iterator[Value]:
        for number, content in enumerate(self._of(list)):
            yield Value(self.file, f"{self.where}[{number}]", content, self.line)

    def string(self) -> str:
        text = self._of(str)
        if half := _HALF.search(text):
            raise self.error(f"holds \\u{ord(half[0]):04x} alone, which is half of a character")
        return text

    def identifier(self) -> str:
        """A string, or a whole number as one."""
        return str(self.content) if type(self.content) is int else self.string()

    def integer(self) -> int:
        return self._of(int)

    def boolean(self) -> bool:
        return self._of(bool)
