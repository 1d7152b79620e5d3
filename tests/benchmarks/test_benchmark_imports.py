# SPDX-License-Identifier: Apache-2.0
"""The rooms of benchmarks/: scripts import providers and support, providers import support, support neither."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from bench_runs import BENCHMARKS

SCRIPTS = {path.stem for path in BENCHMARKS.glob("*.py")}
FORBIDDEN = {
    "support": {"providers", *SCRIPTS},
    "providers": SCRIPTS,
}  # by room, the roots of what is above it


def module(path: Path) -> str:
    return ".".join(path.relative_to(BENCHMARKS).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): path for path in BENCHMARKS.rglob("*.py")}


def imported(path: Path) -> set[str]:
    """Modules that a file names in import statements, those inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{path}:{node.lineno} is a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) or {node.module}
    return found


def test_no_room_imports_from_above() -> None:
    assert SCRIPTS >= {"bench_sbo", "bench_step", "run_all"} and len(MODULES) > 25
    for name, path in MODULES.items():
        roots = {other.partition(".")[0] for other in imported(path)}
        assert not roots & FORBIDDEN.get(name.partition(".")[0], set()), name


def test_no_module_imports_itself_in_a_circle() -> None:
    order = TopologicalSorter({name: imported(path) & MODULES.keys() for name, path in MODULES.items()})
    assert set(order.static_order()) == MODULES.keys()  # CycleError names a circle


def test_support_stands_without_the_tuner() -> None:
    inner = {name for name in MODULES if name.startswith("support") and "tuner" not in name}
    assert not any(other.startswith("support.tuner") for name in inner for other in imported(MODULES[name]))
