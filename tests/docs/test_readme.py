# SPDX-License-Identifier: Apache-2.0
"""README: short, its links lead somewhere, its two lines import what there is. Its code runs in test_docs.py."""

from __future__ import annotations

import ast
import importlib
import json
import re

from pages import README, blocks

ROOT = README.parent
EVIDENCE = ROOT / "benchmarks" / "evidence" / "cpu" / "evidence.json"
PROBES = ("mentions, ontogum", "relations, SemEval-2010-8", "coreference, ontogum", "coreference, GAP")


def test_it_is_read_in_one_sitting() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 120


def test_it_names_the_versions_that_are_tested() -> None:
    """Of torch: those of the constraints, as CONTRIBUTING's table has them (tests/build/test_project_files.py)."""
    for name, pin in (
        ("constraints.txt", "torch=="),
        ("constraints.txt", "#cuda torch=="),
        ("constraints-lowest.txt", "torch=="),
    ):
        version = re.search(rf"^{pin}([\d.]+)", (ROOT / name).read_text(), re.M)[1]
        for page in (README, ROOT / "docs" / "depending.md"):
            assert version in page.read_text(encoding="utf-8"), f"{page.name} does not name torch {version}"


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


def test_the_table_of_systems_is_that_of_the_evidence() -> None:
    found = {own["title"]: own for own in json.loads(EVIDENCE.read_text())["findings"]}
    rows: dict[str, list[str]] = {}
    for title in PROBES:
        first = found[title]["comparisons"][0]
        for own in first["estimates"]:
            interval = own["interval"]
            cell = f"{own['value']:.1f} [{interval['low']:.1f}, {interval['high']:.1f}]"
            rows.setdefault(own["checkpoint"], []).append(cell)
        rows.setdefault("the same answer to all", []).append(
            f"{found[title]['constant'][first['metric']]:.1f}"
        )
    text = README.read_text(encoding="utf-8")
    for name, cells in rows.items():
        assert f"| {name} | {' | '.join(cells)} |" in text
    for title, alone in zip(PROBES, (True, True, False, False), strict=True):
        of_spanbert = [d for d in found[title]["comparisons"][0]["differences"] if d["first"] == "SpanBERT"]
        assert [d["separated"] and d["value"] > 0 for d in of_spanbert] == [alone] * 3
