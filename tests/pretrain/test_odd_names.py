# SPDX-License-Identifier: Apache-2.0
"""A text whose name is not UTF-8: a run on it ends and can be reported, whatever takes what is printed."""

from __future__ import annotations

import io
import os
import sys

import pytest

pytest.importorskip("transformers")

from report_samples import write_run
from tiny_models import one_thread  # noqa: F401
from tiny_runs import arguments

from spanbert_ext.pretrain import cli, report_cli

NAME = "caf\udce9.txt"


def printed_by(command, monkeypatch, encoding: str) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert command() == 0
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


def test_a_run_on_it_ends(corpus, tmp_path, monkeypatch):
    text = tmp_path / NAME
    try:
        os.link(corpus, text)
    except OSError:
        pytest.skip("the file system takes names in UTF-8 alone")
    output = tmp_path / "out"
    given = arguments(text, output, "--samples", "1")
    printed = printed_by(lambda: cli.main(given), monkeypatch, "ascii")
    assert r"caf\xe9.txt' --block-size" in printed.splitlines()[-1]
    for encoding in ("utf-8", "ascii"):
        assert "Page: " in printed_by(lambda: report_cli.main([str(output)]), monkeypatch, encoding)
    assert r"caf\udce9.txt" in (output / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_runs_whose_names_are_not_utf8_are_reported_in_columns(tmp_path, monkeypatch, encoding):
    folders = [write_run(tmp_path / "caf\udce9"), write_run(tmp_path / "plain", corpus=[NAME])]
    page = tmp_path / "page.html"
    given = ["--output", str(page), *map(str, folders)]
    table = printed_by(lambda: report_cli.main(given), monkeypatch, encoding).splitlines()
    assert table[2].startswith(r"caf\udce9 ")
    assert len({line.index("demo") for line in table[2:4]}) == 1
    assert page.read_text(encoding="utf-8").count(r"caf\udce9") > 1
