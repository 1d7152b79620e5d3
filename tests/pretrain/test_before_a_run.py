# SPDX-License-Identifier: Apache-2.0
"""What comes before a run: its plan alone, mistakes that leave no folder, and progress bars on terminals alone."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

import datasets
from tiny_models import one_thread  # noqa: F401
from tiny_runs import FULL_DISK, arguments, contents, error_of
from transformers.utils import logging

from spanbert_ext.files.bars import bars_shown
from spanbert_ext.files.disk import removed_where_empty
from spanbert_ext.pretrain import cli
from spanbert_ext.pretrain.run import train
from spanbert_ext.pretrain.settings.bars import library_bars

# --- The plan alone ----------------------------------------------------------------------------------------------


def test_a_plan_alone_is_made_as_before_a_run_and_leaves_no_folder(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train.SpanTrainer, "train", None)
    assert cli.main(arguments(corpus, tmp_path / "new" / "out", "--plan-only")) == 0
    printed = capsys.readouterr().out
    for fact in ("Plan:\n", " time ", "about ", " of training, ", " memory ", "--plan-only does."):
        assert fact in printed, fact
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    assert cli.main(arguments(corpus, tmp_path / "mine", "--plan-only")) == 0
    assert not any((tmp_path / "mine").iterdir())


def test_a_plan_alone_beside_a_run_deletes_nothing_and_says_what_the_run_would_say(
    left_alone, corpus, capsys
):
    (left_alone / ".metrics.json.1").touch()  # of a process that was killed
    before = contents(left_alone)
    errors = error_of(capsys, 2, *arguments(corpus, left_alone, "--plan-only"))
    assert "already holds a run" in errors
    assert cli.main(arguments(corpus, left_alone, "--plan-only", "--overwrite")) == 0
    assert "Plan:\n" in capsys.readouterr().out
    assert contents(left_alone) == before
    (left_alone / ".metrics.json.1").unlink()


def test_a_plan_alone_is_of_a_run_that_begins(left_alone, capsys):
    errors = error_of(capsys, 2, "--output", str(left_alone), "--resume", "--plan-only")
    assert "--plan-only is for a run that is to begin, and --resume goes on with one" in errors


def test_a_plan_that_cannot_be_made_does_not_speak_of_a_run_to_go_on(left_alone, corpus, capsys, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("by us")

    monkeypatch.setattr(train, "make_plan", broken)
    assert cli.main(arguments(corpus, left_alone, "--plan-only", "--overwrite")) == cli.FAILED
    assert capsys.readouterr().err.endswith("error: ZeroDivisionError: by us\n")


# --- Mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mistake",
    [
        ["--corpus", "missing.txt"],
        ["--corpus", "bad.txt"],
        ["--corpus", "empty.txt"],
        ["--model", "bert-base-cased"],  # there is no network
        ["--model", "/nowhere/at/all"],
        ["--tokenizer", "bert-base-cased"],
        ["--tokenizer", "/nowhere/at/all"],
        ["--vocab-size", "100", "--unused-ids", "60"],
        ["--block-size", "1000"],
        ["--device", "cuda"],
        ["--report-to", "nothing-of-this-name"],
        ["--recipe", "bert", "--epochs", "3"],
        ["--recipe", "masking-entities", "--masking", "noun-phrases"],
        ["--cache-dir", "bad.txt"],
    ],
    ids=" ".join,
)
def test_a_mistake_leaves_no_folder(corpus, tmp_path, capsys, monkeypatch, mistake):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for name in ("textblob", "textblob.en"):  # which finds noun phrases
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.txt").write_bytes(b"fine\n\nna\xefve\n")
    (tmp_path / "empty.txt").write_text(" \n\n")
    error_of(capsys, 2, *arguments(corpus, tmp_path / "new" / "out", *mistake))
    assert not (tmp_path / "new").exists()


def test_a_full_disk_or_a_signal_before_the_run_leaves_no_folder(corpus, tmp_path, capsys, monkeypatch):
    """After the Trainer was made, which makes the folder of the checkpoints, and before."""
    output = tmp_path / "new" / "out"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: FULL_DISK)
        assert "free" in error_of(capsys, 2, *arguments(corpus, output))
    assert not output.parent.exists()
    monkeypatch.setattr(train, "build_model", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert cli.main(arguments(corpus, output)) == 128 + signal.SIGTERM
    assert not output.parent.exists()


def test_what_was_there_or_holds_something_stays(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ZeroDivisionError), removed_where_empty(tmp_path / "there", tmp_path / "a" / "b"):
        (tmp_path / "a" / "b").mkdir(parents=True)
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["there"]
    with removed_where_empty(tmp_path / "a" / "b" / "c", tmp_path / "a" / "d"):
        (tmp_path / "a" / "b" / "c").mkdir(parents=True)
        (tmp_path / "a" / "b" / "mine").touch()
    assert os.listdir(tmp_path / "a") == ["b"] and os.listdir(tmp_path / "a" / "b") == ["mine"]


# --- Progress bars -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terminal", [False, True])
def test_bars_are_on_a_terminal_alone(corpus, tmp_path, capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    given = arguments(corpus, tmp_path / "out", "--cache-dir", str(tmp_path / "cache"))
    given.remove("--no-progress")
    assert cli.main(given) == 0
    printed = capsys.readouterr()
    assert "Step 0: the loss on " in printed.out and " left" in printed.out
    for bar in ("Tokens", "held-out", "6/6", " left]", "\r"):
        assert (bar in printed.err) == terminal, bar
    assert not datasets.are_progress_bars_disabled() and logging.is_progress_bar_enabled()


def test_bars_of_libraries_are_as_before_afterwards(monkeypatch):
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    assert bars_shown(True) and not bars_shown(False)
    with library_bars(False):
        assert datasets.are_progress_bars_disabled() and not logging.is_progress_bar_enabled()
        with library_bars(True), library_bars(False):
            assert datasets.are_progress_bars_disabled() and not logging.is_progress_bar_enabled()
        assert datasets.are_progress_bars_disabled() and not logging.is_progress_bar_enabled()
    assert not datasets.are_progress_bars_disabled() and logging.is_progress_bar_enabled()
    monkeypatch.setattr(sys, "stderr", None)  # `2>&-`
    assert not bars_shown(True)
