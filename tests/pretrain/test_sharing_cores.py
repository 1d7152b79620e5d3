# SPDX-License-Identifier: Apache-2.0
"""A run of a small model starts itself anew, but nobody else's program."""

from __future__ import annotations

import errno
import os
import sys
from types import SimpleNamespace

import pytest

from spanbert_ext.pretrain import cli

SCRIPT = "/usr/bin/spanbert-pretrain"
GIVEN = ["--corpus", "a.txt", "--model", "tiny"]


def program(file: str | None = None, module: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(__file__=file, __spec__=module and SimpleNamespace(name=module))


@pytest.mark.parametrize(
    "process, command, arguments",
    [
        (program(SCRIPT), ["python", SCRIPT, *GIVEN], [SCRIPT, *GIVEN]),
        (program(SCRIPT), ["python", "-X", "dev", SCRIPT], [SCRIPT]),
        (program("/a/cli.py", cli.MODULE), ["python", "-m", cli.MODULE, *GIVEN], ["/a/cli.py", *GIVEN]),
        (program("/a/cli.py", cli.MODULE), ["python", "-W", "error", "-m", cli.MODULE], ["/a/cli.py"]),
    ],
)
def test_the_command_knows_itself(process, command, arguments):
    assert cli._is_the_command(process, command, arguments)


@pytest.mark.parametrize(
    "process, command, arguments",
    [
        (program(), ["python", "-"], ["-"]),  # python - < script
        (program(), ["python"], [""]),  # a console
        (program(), ["python", "-c", "main()", *GIVEN], ["-c", *GIVEN]),
        (program("mine.py"), ["python", "mine.py", *GIVEN], ["mine.py", *GIVEN]),
        (program("mine.py"), ["python", "mine.py"], [SCRIPT, *GIVEN]),  # that sets its arguments
        (program(SCRIPT), ["python", SCRIPT], [SCRIPT, *GIVEN]),
        (program("a.pyz/__main__.py"), ["python", "a.pyz", *GIVEN], ["a.pyz", *GIVEN]),
        (
            program("/lib/runpy.py", "runpy"),
            ["python", "-m", "runpy", cli.MODULE],
            ["/lib/runpy.py", cli.MODULE],
        ),
        # runpy.run_module(alter_sys=True), runpy.run_path in a program
        (program("/a/cli.py", cli.MODULE), ["python", "mine.py"], ["/a/cli.py"]),
        (program(SCRIPT), ["python", "mine.py"], [SCRIPT]),
        (program("/lib/pytest/__main__.py", "pytest.__main__"), ["python", "-m", "pytest"], ["pytest"]),
        (SimpleNamespace(), ["embedding"], [""]),
        (SimpleNamespace(), [], []),
    ],
)
def test_other_programs_are_left_alone(process, command, arguments):
    assert not cli._is_the_command(process, command, arguments)


@pytest.fixture
def started(monkeypatch) -> list[tuple]:
    """What is started, in a process that was started as the command."""
    calls: list[tuple] = []
    monkeypatch.setattr(os, "execve", lambda *given: calls.append(given))
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "argv", [SCRIPT, *GIVEN])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-B", SCRIPT, *GIVEN])
    monkeypatch.setitem(sys.modules, "__main__", program(SCRIPT))
    return calls


def test_a_small_model_starts_anew_once(started, monkeypatch):
    cli._share_cores("tiny")
    ((executable, command, environment),) = started
    assert executable == sys.executable and command == [sys.executable, "-B", SCRIPT, *GIVEN]
    assert environment == os.environ | {"GOMP_SPINCOUNT": "1000"}
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")  # the new one
    cli._share_cores("tiny")
    assert len(started) == 1


def test_who_goes_on_as_it_is(started, monkeypatch):
    cli._share_cores("base")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "")  # embedded
        cli._share_cores("tiny")
    monkeypatch.setitem(sys.modules, "__main__", program("mine.py"))
    cli._share_cores("tiny")
    assert not started


def test_where_nothing_can_be_started_the_run_goes_on(started, monkeypatch):
    def refused(*_):
        raise OSError(errno.E2BIG, "Argument list too long")

    monkeypatch.setattr(os, "execve", refused)
    cli._share_cores("tiny")
