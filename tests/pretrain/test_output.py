# SPDX-License-Identifier: Apache-2.0
"""A run goes on when nobody reads what it prints, and is found from any working folder."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path

import pytest

from spanbert_ext.files.output import lasting_output

pytest.importorskip("transformers")

from spanbert_ext.pretrain.cli import read_options
from spanbert_ext.pretrain.run.signals import StopOnSignal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_also_ends_the_reader_ends_the_run_after_its_step(number, monkeypatch):
    """`| tee` gets the same Ctrl-C, and a terminal that is closed takes no more."""
    reader, writer = os.pipe()
    stream, stop = open(writer, "w"), StopOnSignal()
    monkeypatch.setattr(sys, "stdout", stream)
    with lasting_output(), stop.installed(), stop.after_step():
        print("a step", flush=True)
        os.close(reader)
        signal.raise_signal(number)
        print("the next one", flush=True)
    assert stop.signal_number == number
    stream.close()  # nothing is left in it that cannot be written


def test_a_handler_that_prints_amid_a_write(monkeypatch):
    class Busy(io.StringIO):
        def write(self, text: str) -> int:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter>")

    monkeypatch.setattr(sys, "stdout", Busy())
    with lasting_output():
        print("dropped")
    with pytest.raises(RuntimeError):
        print("as ever")


def test_a_stream_that_was_closed_before(monkeypatch, capsys):
    """`spanbert-pretrain >&-`"""
    monkeypatch.setattr(sys, "stdout", None)
    with lasting_output():
        print("to nobody")
        assert sys.stdout is None
        print("an error", file=sys.stderr)
    assert capsys.readouterr().err == "an error\n"


def test_a_workers_copy_of_the_handler_is_silent(monkeypatch, capsys):
    stop = StopOnSignal()
    with stop.installed(), stop.after_step():
        number = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: number + 1)
        signal.raise_signal(signal.SIGINT)
    assert stop.signal_number is None and capsys.readouterr().out == ""


def test_what_options_name_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("words", "start", "demo"):
        Path(name).mkdir()
    read = read_options({"tokenizer": "words", "model": "start", "cache_dir": "cache"})
    assert (read.tokenizer, read.model, read.cache_dir) == tuple(
        str(tmp_path / name) for name in ("words", "start", "cache")
    )
    read = read_options({"tokenizer": "bert-base-cased", "model": "demo"})  # of the hub, and a size
    assert (read.tokenizer, read.model) == ("bert-base-cased", "demo")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_characters_that_a_stream_has_not_are_written_as_escapes(monkeypatch, encoding):
    """A log of a machine in the C locale, and a file whose name is no UTF-8."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    with lasting_output() as lost:
        print("12 · 3 …", "caf\udce9.txt", flush=True)
        sys.stdout.writelines(["… ", "the end\n"])
        sys.stdout.flush()
        assert lost() is None
    shown = {"ascii": r"12 \xb7 3 \u2026", "latin-1": r"12 · 3 \u2026", "utf-8": "12 · 3 …"}[encoding]
    dots = shown.rpartition(" ")[2]
    assert written.getvalue().decode(encoding) == f"{shown} caf\\udce9.txt\n{dots} the end\n"
