"""What README shows exists: every example parses and every name that it imports can be imported."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"


def examples() -> list[str]:
    text = README.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    for block in re.findall(r"```diff\n(.*?)```", text, flags=re.S):
        blocks.append("\n".join(line[1:] for line in block.splitlines() if line.startswith("+")))
    return blocks


@pytest.mark.parametrize("example", examples())
def test_imports_of_examples(example: str) -> None:
    imported = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.ImportFrom)]
    for node in imported:
        module = importlib.import_module(node.module)
        for name in node.names:
            assert hasattr(module, name.name), f"{node.module} has no {name.name}"
    names = {name.id for name in ast.walk(ast.parse(example)) if isinstance(name, ast.Name)}
    given = {"tokenizer", "model", "input_ids", "train_blocks", "held_out_blocks"}
    given |= {"MyForMaskedLM"}
    bound = {alias.name for node in imported for alias in node.names}
    bound |= {
        name.id for name in ast.walk(ast.parse(example)) if isinstance(getattr(name, "ctx", None), ast.Store)
    }
    assert names <= given | bound


def test_the_example_of_two_lines_is_there() -> None:
    assert len(examples()) == 6
