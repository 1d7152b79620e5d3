"""README: short, its links lead somewhere, its two lines import what there is. Its code runs in test_docs.py."""

from __future__ import annotations

import ast
import importlib
import re

from pages import README, blocks

ROOT = README.parent


def test_it_is_read_in_one_sitting() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def test_its_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", README.read_text(encoding="utf-8"))
    local = [link for link in links if not link.startswith("https://")]
    assert len(local) >= 10
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_the_two_lines_import_what_there_is() -> None:
    (change,) = (block.text for block in blocks(README) if block.language == "diff")
    lines = [line for line in change.splitlines() if line.strip()]
    for sign in "+-":
        code = ast.parse("\n".join(line[1:] for line in lines if line.startswith(sign)))
        imports = [node for node in code.body if isinstance(node, ast.ImportFrom)]
        assert imports and len(code.body) == 3
        for node in imports:
            module = importlib.import_module(node.module)
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []
