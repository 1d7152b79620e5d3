# SPDX-License-Identifier: Apache-2.0
"""What other people's programs rely on does not change unnoticed: the public names, their signatures, the commands."""

from __future__ import annotations

import difflib
import importlib
import re
from pathlib import Path
from typing import Any, NamedTuple

import public_names
import pytest
import torch

pytest.importorskip("datasets")

RECORD = Path(__file__).with_name("public_names.txt")
SETTINGS = Path(__file__).parents[2] / "pyproject.toml"


def test_public_names_and_signatures_are_those_on_record() -> None:
    recorded, found = RECORD.read_text(encoding="utf-8"), public_names.public_names()
    changed = difflib.unified_diff(
        recorded.splitlines(), found.splitlines(), "on record", "in the package", n=0, lineterm=""
    )
    assert recorded == found, (
        "What is public has changed:\n"
        + "\n".join(changed)
        + '\nCONTRIBUTING.md, "What is public", says what may change, and how a name goes. If this may: write a line'
        " into CHANGELOG.md, and record it by\n    python tests/build/public_names.py > tests/build/public_names.txt"
    )


@pytest.mark.parametrize("module_name", public_names.MODULES)
def test_every_public_name_is_there_and_explained(module_name) -> None:
    module = importlib.import_module(module_name)
    assert sorted(set(module.__all__)) == list(module.__all__)
    assert not [name for name in module.__all__ if not (getattr(module, name).__doc__ or "").strip()]


def test_the_commands_are_those_that_are_installed() -> None:
    text = SETTINGS.read_text(encoding="utf-8").partition("[project.scripts]")[2].partition("\n[")[0]
    assert sorted(re.findall(r"^(\S+) = ", text, flags=re.M)) == sorted(public_names.COMMANDS)


class Pair(NamedTuple):
    a: int
    b: torch.Tensor | None = None


class Base:
    def kept(self, x: int) -> None:
        """In its subclasses too."""


class Sample(Base, dict):
    def __init__(self, size: int, *, init: Any = torch.nn, name: str = "a b") -> None:
        """One with a module and a text as defaults."""

    def call(self, x: torch.Tensor | None = None, /, *more: int) -> Pair: ...

    @classmethod
    def made(cls, size: int = 3) -> Sample: ...

    @property
    def size(self) -> int: ...

    def _own(self) -> None: ...


def test_what_is_recorded_of_a_class(monkeypatch) -> None:
    for part in (Base, Sample):
        monkeypatch.setattr(part, "__module__", "spanbert_ext.sample")
    assert list(public_names.described("Sample", Sample)) == [
        "Sample(size: int, *, init: Any = torch.nn, name: str = 'a b')",
        "Sample.call(self, x: torch.Tensor | None = None, /, *more: int) -> Pair",
        "Sample.kept(self, x: int) -> None",
        "classmethod Sample.made(size: int = 3) -> Sample",
        "Sample.size: property",
    ]
    assert list(public_names.described("Pair", Pair)) == ["Pair(a: int, b: torch.Tensor | None = None)"]
