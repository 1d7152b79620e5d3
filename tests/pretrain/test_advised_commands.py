# SPDX-License-Identifier: Apache-2.0
"""Commands that a run advises work as they are printed, whatever its folder is called."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from spanbert_ext.files.commands import option, place, word
from spanbert_ext.fill.fill_cli import build_parser as fill_parser
from spanbert_ext.pretrain import cli
from spanbert_ext.pretrain.report_cli import build_parser as report_parser
from spanbert_ext.pretrain.rows.tokenizer import TokenizerError
from spanbert_ext.pretrain.run.data import known_tokenizer
from spanbert_ext.pretrain.run.next_steps import next_commands
from spanbert_ext.pretrain.run.resuming import _differs
from spanbert_ext.pretrain.settings.options import Options
from spanbert_ext.pretrain.settings.parser import build_parser

NAMES = ("out", "my run", "it's (here) & $there", "-foo", "--resume", "-foo bar")


def after(command: str, program: str) -> list[str]:
    """The words of a printed command that follow its program."""
    words = shlex.split(command)
    return words[words.index(program) + 1 :]


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_on_after_an_error(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    Path(name, "run.json").touch()
    given = build_parser().parse_args(after(cli._kept(name), "spanbert-pretrain"))
    assert given.resume and os.path.samefile(given.output, name)


@pytest.mark.parametrize("name", NAMES)
def test_what_comes_next(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    options = Options(corpus=[name], output=name, text_field="-body", document_separator="---")
    report, fill, further = next_commands(options).splitlines()[2:]
    (folder,) = report_parser().parse_args(after(report, "spanbert-report")).folders
    assert os.path.samefile(folder, name)
    assert os.path.samefile(fill_parser().parse_args(after(fill, "spanbert-fill")).checkpoint, name)
    given = build_parser().parse_args(after(further, "spanbert-pretrain"))
    assert os.path.samefile(given.model, name) and os.path.samefile(given.corpus[0], name)
    assert os.path.normpath(given.output) == f"{name}-further"
    assert (given.text_field, given.document_separator) == ("-body", "---")


@pytest.mark.parametrize("name", NAMES)
def test_what_deletes_a_damaged_tokenizer(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    folder = Path(name)
    (folder / "tokenizer").mkdir(parents=True)
    options = Options(model="tiny", max_steps=1).resolve()
    options.resume = True
    with pytest.raises(TokenizerError) as damaged:
        known_tokenizer(options, folder)
    for said in (str(damaged.value), _differs(folder, "tokenizer", options, options, 1, 2)):
        command = re.search(r"\(rm -r (.*)\), and", said)[1]
        (path,) = shlex.split(command)
        assert not path.startswith("-") and os.path.samefile(path, folder / "tokenizer")


@pytest.mark.parametrize("name", ["caf\udce9's", "a\nb", "a\x1b[31mb", "back\\slash\t1", "\udce9f"])
def test_bash_reads_names_that_no_terminal_shows(name):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    assert word(name).isprintable() and word(name).isascii()
    printed = subprocess.run([bash, "-c", f"printf %s {word(name)}"], capture_output=True, check=True)
    assert printed.stdout == os.fsencode(name)


def test_words_by_hand():
    assert (place("a b"), place("-a"), place(Path("-a/b"))) == ("'a b'", "./-a", "./-a/b")
    assert (option("--x", "a"), option("--x", "-a b")) == ("--x a", "'--x=-a b'")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "with: spanbert-pretrain "),
        ({"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, "with: spanbert-pretrain "),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}, "with: torchrun --nproc-per-node 4 -m MODULE "),
        (
            {"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"},
            "on each machine, which torchrun is told as before, with:"
            " torchrun --nnodes 2 --nproc-per-node 8 -m MODULE ",
        ),
        (
            {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4", "ACCELERATE_USE_FSDP": "true"},
            "with: accelerate launch --use_fsdp --fsdp_version 2 --num_processes 4 -m MODULE ",
        ),
    ],
)
def test_a_run_of_several_processes_goes_on_with_as_many(tmp_path, monkeypatch, variables, expected):
    (tmp_path / "run.json").touch()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    launched = expected.replace("MODULE", "spanbert_ext.pretrain.cli")
    assert cli._kept(str(tmp_path)) == f"Go on from the beginning {launched}--output {tmp_path} --resume"
