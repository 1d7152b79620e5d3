# SPDX-License-Identifier: Apache-2.0
"""Scripts for masked language models as people have them run to the end with two changed lines, and as they were.

In two processes they run in tests/models/test_two_processes.py, which has started some already.
"""

from __future__ import annotations

import runpy
import sys

import pytest
from script_runs import KINDS, RUNS, SCRIPTS, check_loop, check_saved, check_trainer, script_of, write_inputs
from tiny_models import one_thread  # noqa: F401


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCRIPTS)
def test_one_process(name, kind, inputs, tmp_path, monkeypatch):
    for run in RUNS[name](inputs, tmp_path):
        monkeypatch.setattr(sys, "argv", ["script", *run])
        runpy.run_path(script_of(kind, name, inputs), run_name="__main__")
    check_trainer(tmp_path, kind) if name == "trainer" else check_loop(tmp_path)
    check_saved(tmp_path, kind)
