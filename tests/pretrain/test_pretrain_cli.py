# SPDX-License-Identifier: Apache-2.0
"""`spanbert-pretrain`: for a user's mistake it prints one line that names what and where, and its exit status is 2."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from spanbert_ext.pretrain import cli, report_cli
from spanbert_ext.pretrain.settings.options import OptionError, Options, load_options, save_options


def error_of(capsys, *arguments: str) -> str:
    assert cli.main([*arguments, "--no-progress"]) == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert printed.startswith("spanbert-pretrain: error: ")
    return printed


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"Here is document {i}, and it says something." for i in range(20)))
    return str(path)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for action in cli.build_parser()._actions:
        assert action.help, action.dest
        assert action.option_strings[-1] in text
    assert "examples:" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--max-steps", "0"], "--max-steps is 0"),
        (["--batch-size", "-1"], "--batch-size is -1"),
        (["--learning-rate", "nan"], "--learning-rate is nan"),
        (["--held-out", "1"], "--held-out is 1"),
        (["--ratio", "0"], "--ratio is 0"),
        (["--ratio", "1.5"], "--ratio is 1.5"),
        (["--dropout", "2"], "--dropout is 2"),
        (["--block-size", "2"], "--block-size is 2"),
        (["--resume", "--overwrite"], "there is no run in"),
        (["--corpus", "nowhere.txt"], "nowhere.txt' does not exist"),
    ],
)
def test_bad_values_are_named(capsys, arguments, message):
    assert message in error_of(capsys, *arguments)


def test_block_longer_than_the_models_positions(capsys, corpus):
    line = error_of(capsys, "--corpus", corpus, "--block-size", "4096", "--vocab-size", "120")
    assert "--block-size is 4096" in line and "512 positions" in line


def test_model_that_does_not_exist(capsys, corpus, tmp_path):
    assert "no-such-model" in error_of(capsys, "--corpus", corpus, "--model", str(tmp_path / "no-such-model"))


def test_wrong_encoding_on_the_command_line(capsys, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"fine\n\nna\xefve\n")
    line = error_of(capsys, "--corpus", "bad.txt", "--cache-dir", str(tmp_path / "cache"))
    assert "bad.txt" in line and "byte offset 8, line 3" in line


def test_output_that_is_a_file_or_not_ours(capsys, corpus, tmp_path):
    assert "text.txt is a file" in error_of(capsys, "--corpus", corpus, "--output", corpus)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for option in ("--samples=1", "--overwrite"):
        assert "mine is not empty" in error_of(capsys, "--corpus", corpus, "--output", "mine", option)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_unwritable_output(capsys, corpus, tmp_path):
    parent = tmp_path / "locked"
    parent.mkdir()
    parent.chmod(0o500)
    if os.access(parent, os.W_OK):  # root may write anywhere but here
        parent = "/proc"
    assert f"--output {parent}/out is not writable" in error_of(
        capsys, "--corpus", corpus, "--output", f"{parent}/out"
    )


@pytest.fixture(params=["closed to the user", "too long"])
def unreachable(request, tmp_path, monkeypatch):
    """A folder that the system does not look into, and what it says."""
    if request.param == "too long":
        return tmp_path / ("n" * 300) / "out", "File name too long"
    closed, stat = tmp_path / "closed", os.stat

    def refused(path, *arguments, **more):  # the root user may look anywhere
        if not isinstance(path, int) and closed in Path(os.fsdecode(path)).parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return stat(path, *arguments, **more)

    monkeypatch.setattr(os, "stat", refused)
    monkeypatch.setattr(Path, "stat", refused)  # Python 3.10's keeps the function that it began with
    return closed / "out", "Permission denied"


@pytest.mark.parametrize("more", [[], ["--overwrite"], ["--plan-only"], ["--resume"]])
def test_output_that_cannot_be_reached(capsys, corpus, unreachable, more):
    folder, reason = unreachable
    assert cli.main(["--corpus", corpus, "--output", str(folder), "--no-progress", *more]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    what = "cannot be read" if more == ["--resume"] else "is not writable"
    assert line == f"spanbert-pretrain: error: --output {folder} {what}: {reason}"


def test_what_is_kept_where_nothing_can_be_looked_at(unreachable):
    assert cli._kept(str(unreachable[0])).startswith("Nothing had begun in ")


def test_a_model_or_a_report_that_cannot_be_reached(capsys, corpus, unreachable):
    folder, reason = unreachable
    assert str(folder) in error_of(capsys, "--corpus", corpus, "--model", str(folder))
    assert report_cli.main([str(folder)]) == 2
    assert f"{folder} is not to be read ({reason})" in capsys.readouterr().err


def test_existing_run_needs_a_decision(capsys, corpus, tmp_path):
    (tmp_path / "out").mkdir()
    save_options(Options().resolve(), tmp_path / "out" / "run.json")
    line = error_of(capsys, "--corpus", corpus, "--output", "out")
    assert "--resume" in line and "--overwrite" in line


def test_resume_takes_the_runs_options_and_refuses_others(tmp_path):
    path = tmp_path / "run.json"
    save_options(Options(seed=3, max_steps=70, overwrite=True).resolve(), path, corpus_digest="ab")
    options, facts = load_options(path, {"workers": 2, "resume": True, "seed": 3})
    assert (options.seed, options.max_steps, options.workers) == (3, 70, 2)
    assert (options.resume, options.overwrite, options.output) == (True, False, str(tmp_path))
    assert facts == {"corpus_digest": "ab"}
    with pytest.raises(OptionError, match=r"--seed is 4 .* started with 3"):
        load_options(path, {"seed": 4})
    with pytest.raises(OptionError, match="--workers is -1"):
        load_options(path, {"workers": -1})
    path.write_text(json.dumps({"options": {}})[:-3])
    with pytest.raises(OptionError, match=r"cannot read .*run\.json"):
        load_options(path, {})


def test_gpu_that_is_not_there(capsys, corpus, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    line = error_of(capsys, "--corpus", corpus, "--device", "cuda", "--vocab-size", "120")
    assert "--device is cuda" in line
