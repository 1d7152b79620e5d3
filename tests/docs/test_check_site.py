# SPDX-License-Identifier: Apache-2.0
"""tools/check_site.py finds links that lead nowhere, and those alone."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

TOOL = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "check_site.py"))


@pytest.mark.parametrize(
    ("link", "whole"),
    [
        ('<a href="other.html">', True),
        ('<a href="other.html#there">', True),
        ('<a href="#here">', True),
        ('<a href="https://example.org/nothing.html#x">', True),
        ('<a href="mailto:somebody@example.org">', True),
        ('<img src="a%20plot.png">', True),
        ('<a href="missing.html">', False),
        ('<a href="other.html#here">', False),
        ('<a href="#there">', False),
        ('<img src="missing.png">', False),
        ('<script src="missing.js"></script>', False),
        ('<link rel="stylesheet" href="missing.css">', False),
    ],
)
def test_a_link_is_found_broken_where_it_is(tmp_path: Path, link: str, whole: bool) -> None:
    (tmp_path / "index.html").write_text(f'<p id="here">{link}</p>')
    (tmp_path / "other.html").write_text('<p id="there"></p>')
    (tmp_path / "a plot.png").write_bytes(b"")
    broken = TOOL["broken_links"](tmp_path)
    assert broken == [] if whole else len(broken) == 1 and broken[0].startswith("index.html: ")
