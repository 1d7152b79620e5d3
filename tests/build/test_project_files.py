# SPDX-License-Identifier: Apache-2.0
"""The files that say which version this is agree, and what they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from spanbert_ext._version import __version__

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "CITATION.cff").is_file():
    pytest.skip("the project's files are not beside the tests", allow_module_level=True)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["version"] == __version__
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert f'license = "{citation["license"]}"' in text_of("pyproject.toml")
    (paper,) = citation["references"]
    assert paper["url"] in text_of("README.md") and paper["url"] in text_of("pyproject.toml")
    assert [author["family-names"] for author in paper["authors"]][::5] == ["Joshi", "Levy"]


def test_the_changelog_has_this_version_in_the_form_that_it_names() -> None:
    headings = re.findall(r"^## (.*)$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(__version__)}\] - \d{{4}}-\d\d-\d\d", headings[1])
    kinds = re.findall(r"^### (.*)$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert {*kinds} <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("name", ["SECURITY.md", "CONTRIBUTING.md"])
def test_tests_that_a_document_names_exist(name: str) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py|tools/[\w/]+\.py)`", text_of(name))
    assert len(named) > 3
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_the_table_of_versions_is_that_of_the_constraints() -> None:
    table = text_of("CONTRIBUTING.md").partition("## What is tested against what")[2].partition("\n## ")[0]
    pinned, lowest = text_of("constraints.txt"), text_of("constraints-lowest.txt")
    for versions, packages in ((pinned, ("torch", "transformers")), (lowest, ("torch", "transformers"))):
        for package in packages:
            version = re.search(rf"^{package}==([\d.]+)", versions, re.MULTILINE)[1]
            assert version in table, f"{package} {version}"
    assert re.search(r"^#cuda torch==([\d.]+)", pinned, re.MULTILINE)[1] in table


SOURCES = ("benchmarks", "cmake", "csrc", "docs", "examples", "spanbert_ext", "tests", "tools")
ENDINGS = (".cmake", ".cpp", ".cu", ".h", ".in", ".py", ".sh")


def test_every_source_names_its_licence() -> None:
    files = [path for folder in SOURCES for path in (ROOT / folder).rglob("*") if path.suffix in ENDINGS]
    files += [ROOT / "CMakeLists.txt", ROOT / "setup.py"]
    assert len(files) > 500
    tag = re.compile(r"(#!.*\n)?(//|#) SPDX-License-Identifier: Apache-2\.0\n")
    unmarked = [path for path in files if not tag.match(path.read_text(encoding="utf-8"))]
    assert [str(path.relative_to(ROOT)) for path in unmarked if path.stat().st_size] == []
