# SPDX-License-Identifier: Apache-2.0
"""The public names with their signatures as text: `python tests/build/public_names.py` prints what public_names.txt
holds."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from typing import Any, ForwardRef

MODULES = ("spanbert_ext", "spanbert_ext.ops", "spanbert_ext.reference")
RETURNED = (
    "spanbert_ext.models.output.SpanBertForPreTrainingOutput"  # its fields are public, its place is not
)
COMMANDS = {
    "spanbert-convert": "spanbert_ext.convert.convert_cli",
    "spanbert-evaluate": "spanbert_ext.evaluate.evaluate_cli",
    "spanbert-fill": "spanbert_ext.fill.fill_cli",
    "spanbert-prepare": "spanbert_ext.pretrain.prepare_cli",
    "spanbert-pretrain": "spanbert_ext.pretrain.settings.parser",
    "spanbert-report": "spanbert_ext.pretrain.report_cli",
}


class _Text:
    """What `inspect` prints without quotation marks."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _annotation(annotation: Any) -> _Text:
    """As it is written, in every version of Python."""
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    return _Text(annotation if isinstance(annotation, str) else inspect.formatannotation(annotation))


def signature_text(function: Callable) -> str:
    found = inspect.signature(function)
    parameters = []
    for p in found.parameters.values():
        if p.annotation is not p.empty:
            p = p.replace(annotation=_annotation(p.annotation))
        if inspect.ismodule(p.default):
            p = p.replace(default=_Text(p.default.__name__))  # which is printed with its place on the disk
        parameters.append(p)
    returned = found.return_annotation
    if returned is not found.empty:
        returned = _annotation(returned)
    return str(found.replace(parameters=parameters, return_annotation=returned))


def described(name: str, value: Any) -> Iterator[str]:
    """Lines of a public name: a function; a class with its constructor and what it, or a class of ours that it is made
    of, defines without an underscore."""
    if inspect.ismodule(value):
        yield f"{name}: module"
    elif not inspect.isclass(value):
        yield f"{name}{signature_text(value)}"
    else:
        yield f"{name}{_constructor(value)}"
        for member in sorted(_members(value)):
            found = inspect.getattr_static(value, member)
            if isinstance(found, property):
                yield f"{name}.{member}: property"
            elif isinstance(found, classmethod | staticmethod) or inspect.isfunction(found):
                kind = {classmethod: "classmethod ", staticmethod: "staticmethod "}.get(type(found), "")
                yield f"{kind}{name}.{member}{signature_text(getattr(value, member))}"


def _constructor(value: type) -> str:
    """Of `__init__` where the class has one of its own: `__new__` may only choose the class."""
    own = "__init__" in value.__dict__
    text = signature_text(value.__init__ if own else value)
    return text.replace("(self, ", "(", 1).replace("(self)", "()", 1).removesuffix(" -> None")


def _members(value: type) -> set[str]:
    ours = [
        part for part in value.__mro__ if part.__module__.partition(".")[0] in ("spanbert_ext", "__main__")
    ]
    return {name for part in ours for name in vars(part) if not name.startswith("_")}


def options(name: str, parser: ArgumentParser) -> Iterator[str]:
    """A line for a command, with its options and its arguments without a name, and one for each of its commands."""
    found, below = [], {}
    for action in parser._actions:
        found += action.option_strings or [str(action.metavar or action.dest).upper()]
        if not action.option_strings and isinstance(action.choices, dict):
            below |= action.choices
    yield f"{name} {' '.join(sorted(found))}"
    for command, of_command in below.items():
        yield from options(f"{name} {command}", of_command)


def public_names() -> str:
    lines = []
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in sorted(module.__all__):
            lines += described(f"{module_name}.{name}", getattr(module, name))
    module_name, _, name = RETURNED.rpartition(".")
    lines += described(name, getattr(importlib.import_module(module_name), name))
    for command, module_name in COMMANDS.items():
        lines += options(command, importlib.import_module(module_name).build_parser())
    whole = {"break_long_words": False, "break_on_hyphens": False, "subsequent_indent": "    "}
    return "\n".join(textwrap.fill(line, 118, **whole) for line in lines) + "\n"


if __name__ == "__main__":
    print(public_names(), end="")
