# SPDX-License-Identifier: Apache-2.0
"""The command: what it says, what it refuses, and an output that is whole or not there."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import torch
from published_samples import VOCABULARY, prefixed, published_state, run_checkpoint, save
from tiny_models import make_model, one_thread, tiny_tokenizer  # noqa: F401

from spanbert_ext.convert import convert as conversion
from spanbert_ext.convert import convert_cli, whole_folder
from spanbert_ext.files import disk


def command(*arguments) -> int:
    return convert_cli.main([*map(str, arguments), "--no-progress"])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return save(prefixed(published_state(15, dtype=torch.float16)), tmp_path / "model.pt")


@pytest.fixture
def vocabulary(tmp_path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY))
    return path


def nothing_left(folder: Path, *expected: str) -> None:
    """Nothing beside what was there: no output, no temporary folder."""
    assert {path.name for path in folder.iterdir()} == {*expected}


# --- What it says ------------------------------------------------------------------------------------------------


def test_help_has_examples_that_parse(capsys):
    with pytest.raises(SystemExit) as end:
        command("--help")
    said = capsys.readouterr().out
    assert end.value.code == 0
    examples = re.findall(r"^  spanbert-convert (.*)$", said, flags=re.M)
    assert len(examples) >= 4
    for example in examples:
        convert_cli.build_parser().parse_args(example.split())
    for option in (
        "--output",
        "--to",
        "--legacy",
        "--vocab",
        "--attention-heads",
        "--with-args",
        "--overwrite",
    ):
        assert option in said


def test_the_summary_of_a_published_checkpoint(tmp_path, checkpoint, vocabulary, capsys):
    assert command(checkpoint, "--output", tmp_path / "out", "--vocab", vocabulary) == 0
    said = capsys.readouterr()
    assert said.err == ""
    lines = {
        line.split()[0]: " ".join(line.split()[1:]) for line in re.sub(r"\n {9,}", " ", said.out).splitlines()
    }
    assert lines["read"] == (
        f"{checkpoint}: fairseq checkpoint, a dictionary of tensors, decoder. before the keys, float16"
    )
    assert lines["model"].startswith(
        "bert, 2 layers of 64, 1 attention heads, 24 positions, 27 tokens; 0.1 M"
    )
    assert lines["found"] == "encoder, MLM head, SBO head (15 position slots of 12)"
    assert lines["tokenizer"] == f"27 tokens of {vocabulary}, cased (do_lower_case false)"
    assert "model.safetensors" in lines["wrote"] and "tokenizer_config.json" in lines["wrote"]
    assert "absent" not in lines and all(
        len(line) <= 100 + len(str(tmp_path)) for line in said.out.splitlines()
    )
    nothing_left(tmp_path, "model.pt", "vocab.txt", "out")


def test_without_a_vocabulary_it_says_so(tmp_path, checkpoint, capsys):
    assert command(checkpoint, "--output", tmp_path / "out") == 0
    assert "--vocab gives one" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
    }


def test_what_a_source_has_not_is_said(tmp_path, capsys):
    path = save(published_state(None, nsp=True), tmp_path / "model.pt")
    assert command(path, "--output", tmp_path / "out") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "found encoder, MLM head, pooler, NSP head" in said
    assert "absent SBO head: initialised at random (seed 0)" in said


def test_a_folder_with_one_checkpoint_of_fairseq(tmp_path, checkpoint, capsys):
    folder = tmp_path / "spanbert_large_with_head"
    folder.mkdir()
    os.rename(checkpoint, folder / "model.pt")
    assert command(folder, "--output", tmp_path / "out") == 0
    save({}, folder / "another.pt")
    capsys.readouterr()
    assert command(folder, "--output", tmp_path / "other") == 2
    assert "it has 2 files *.pt" in capsys.readouterr().err


def test_to_fairseq_and_back(tmp_path, vocabulary, capsys):
    path = save(prefixed(published_state(15)), tmp_path / "source.pt")
    assert command(path, "--output", tmp_path / "a", "--vocab", vocabulary) == 0
    assert command(tmp_path / "a", "--to", "fairseq", "--output", tmp_path / "b") == 0
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"model.pt", "dict.txt", "vocab.txt"}
    found, expected = torch.load(tmp_path / "b" / "model.pt"), torch.load(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], x) for name, x in expected.items())
    assert (tmp_path / "b" / "dict.txt").read_text().splitlines()[:2] == ["[PAD] 27", "[unused1] 26"]
    assert command(tmp_path / "b", "--vocab", tmp_path / "b" / "dict.txt", "--output", tmp_path / "c") == 0
    assert contents(tmp_path / "c") == contents(tmp_path / "a")
    more = ("--with-args", "--dtype", "float16")
    assert command(tmp_path / "a", "--to", "fairseq", *more, "--output", tmp_path / "d") == 0
    assert "fairseq checkpoint with the arguments of a run" in " ".join(capsys.readouterr().out.split())
    content = torch.load(tmp_path / "d" / "model.pt", weights_only=False)
    assert {x.dtype for x in content["model"].values()} == {torch.float16}


# --- What it refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--with-args"], "--with-args is for --to fairseq, but --to is transformers"),
        (["--dtype", "float16", "--legacy"], "--dtype is for --to fairseq, but --to is legacy"),
        (["--attention-heads", "0"], "--attention-heads is 0, expected 1 or more"),
        (["--attention-heads", "7"], "num_attention_heads is 7, expected a divisor"),
    ],
)
def test_options_that_do_not_fit(tmp_path, checkpoint, capsys, more, said):
    assert command(checkpoint, "--output", tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("spanbert-convert: error: ") and said in error and error.count("\n") == 1
    nothing_left(tmp_path, "model.pt")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model.pt"], "--output"),
        (["--output", "x"], "SOURCE"),
        (["a", "--output", "x", "--to", "fairsec"], "perhaps fairseq"),
        (["a", "--output", "x", "--overwrit"], "perhaps --overwrite"),
        (["a", "--output", "x", "--to", "fairseq", "--legacy"], "not allowed with"),
    ],
)
def test_a_command_line_that_is_none(capsys, arguments, said):
    with pytest.raises(SystemExit) as end:
        convert_cli.main(arguments)
    assert end.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nothing.pt", "no/such/folder", "some-org/no-such-name"])
def test_a_source_that_is_nowhere(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert command(name, "--output", "out") == 2
    error = capsys.readouterr().err
    assert name in error and ("does not exist" in error or "as a hub name" in error)
    nothing_left(tmp_path)


def test_attention_heads_of_a_folder_stand_in_its_configuration(tmp_path, capsys):
    make_model().save_pretrained(tmp_path / "in")
    assert command(tmp_path / "in", "--output", tmp_path / "out", "--attention-heads", 4) == 2
    assert "--attention-heads is 4, but the config.json" in capsys.readouterr().err


def test_a_tokenizer_that_old_programs_cannot_read(tmp_path, capsys):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    make_model().save_pretrained(tmp_path / "in")
    words = {"[PAD]": 0, "[UNK]": 1}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    )
    tokenizer.save_pretrained(tmp_path / "in")
    assert command(tmp_path / "in", "--output", tmp_path / "out", "--legacy") == 2
    assert "no WordPiece vocabulary" in capsys.readouterr().err
    nothing_left(tmp_path, "in")


# --- The output --------------------------------------------------------------------------------------------------


def test_an_output_that_is_there_needs_overwrite(tmp_path, checkpoint, vocabulary, capsys):
    out = tmp_path / "out"
    assert command(checkpoint, "--output", out) == 0
    before = contents(out)
    assert command(checkpoint, "--output", out, "--vocab", vocabulary) == 2
    assert "exists and is not empty" in capsys.readouterr().err and contents(out) == before
    assert command(checkpoint, "--output", out, "--vocab", vocabulary, "--overwrite") == 0
    assert before.items() < contents(out).items()
    assert command(checkpoint, "--output", out, "--to", "fairseq", "--overwrite") == 0
    assert contents(out).keys() == {"model.pt"}
    nothing_left(tmp_path, "model.pt", "vocab.txt", "out")


def test_overwrite_deletes_only_what_a_conversion_wrote(tmp_path, checkpoint, capsys):
    out = tmp_path / "out"
    out.mkdir()
    assert command(checkpoint, "--output", out) == 0  # an empty folder is as none
    for name in ("notes.md", "checkpoints"):
        (out / name).write_text("mine") if "." in name else (out / name).mkdir()
        before = contents(out)
        assert command(checkpoint, "--output", out, "--overwrite") == 2
        assert f"holds {name}, which no conversion wrote" in capsys.readouterr().err
        assert contents(out) == before
        os.remove(out / name) if "." in name else os.rmdir(out / name)


def test_an_output_that_holds_the_source_is_refused(tmp_path, checkpoint, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    for out in (tmp_path, ".", checkpoint):
        assert command("model.pt", "--output", out, "--overwrite") == 2
        assert "choose another folder" in (error := capsys.readouterr().err) or "is a file" in error
    make_model().save_pretrained(tmp_path / "in")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "in")
    inside = contents(tmp_path / "in")
    for source, out in (("in", "link"), ("link", "in"), ("in", "in")):
        assert command(source, "--output", out, "--overwrite") == 2
        assert "holds what is to be read" in capsys.readouterr().err
    assert contents(tmp_path / "in") == inside and before.items() <= contents(tmp_path).items()


def test_an_output_behind_a_link_and_in_folders_that_are_not_there(tmp_path, checkpoint):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far")
    assert command(checkpoint, "--output", tmp_path / "link") == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "far" / "config.json").is_file()
    assert command(checkpoint, "--output", tmp_path / "a" / "b" / "c") == 0
    assert (tmp_path / "a" / "b" / "c" / "model.safetensors").is_file()


def full_disk(*arguments, **keywords):
    raise OSError(28, os.strerror(28))


@pytest.mark.parametrize(("name", "form"), [("write_fairseq", "fairseq"), ("write_legacy", "legacy")])
def test_a_full_disk_leaves_what_was_there(tmp_path, checkpoint, capsys, monkeypatch, name, form):
    out = tmp_path / "out"
    assert command(checkpoint, "--output", out) == 0
    before = contents(out)
    monkeypatch.setattr(conversion, name, full_disk)
    for path in (out, tmp_path / "new"):
        assert command(checkpoint, "--output", path, "--to", form, "--overwrite") == 2
        assert "No space left on device" in capsys.readouterr().err
    assert contents(out) == before
    nothing_left(tmp_path, "model.pt", "out")


def test_a_rename_that_fails_puts_back_what_was_there(tmp_path, checkpoint, capsys, monkeypatch):
    out = tmp_path / "out"
    assert command(checkpoint, "--output", out) == 0
    before, rename = contents(out), os.rename

    def failing(source, target):
        if str(source).endswith(".unfinished"):
            full_disk()
        rename(source, target)

    monkeypatch.setattr(whole_folder.os, "rename", failing)
    assert command(checkpoint, "--output", out, "--to", "fairseq", "--overwrite") == 2
    assert contents(out) == before
    nothing_left(tmp_path, "model.pt", "out")


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, None), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_leaves_nothing(tmp_path, checkpoint, capsys, monkeypatch, number, raised):
    monkeypatch.setattr(conversion, "write_fairseq", lambda *arguments: signal.raise_signal(number))
    assert command(checkpoint, "--output", tmp_path / "out", "--to", "fairseq") == 128 + number
    assert f"Nothing was written to {tmp_path / 'out'}" in capsys.readouterr().err
    nothing_left(tmp_path, "model.pt")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_a_killed_conversion_left_goes_with_the_next(tmp_path, checkpoint):
    dead = tmp_path / ".out.4194304999.unfinished"  # no process has such a number
    alive = tmp_path / f".out.{os.getppid()}.unfinished"
    for path in (dead, alive):
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"half")
    assert command(checkpoint, "--output", tmp_path / "out") == 0
    nothing_left(tmp_path, "model.pt", "out", alive.name)


def test_files_are_on_the_disk_before_the_folder_is_there(tmp_path, checkpoint, monkeypatch):
    synced = []

    def sync(path: Path) -> None:
        assert path == tmp_path or not (tmp_path / "out").exists()
        synced.append(path)

    monkeypatch.setattr(disk, "sync", sync)
    monkeypatch.setattr(whole_folder, "sync", sync)
    assert command(checkpoint, "--output", tmp_path / "out") == 0
    assert {"README.md", "config.json", "model.safetensors"} <= {path.name for path in synced} and synced[
        -1
    ] == tmp_path


def test_the_same_source_gives_the_same_bytes(tmp_path, checkpoint):
    for name in ("a", "b"):  # torch's old format has addresses in it
        assert command(checkpoint, "--output", tmp_path / name) == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_arguments_of_a_run_are_not_needed_for_a_tokenizer(tmp_path, capsys):
    path = save(run_checkpoint(published_state()), tmp_path / "model.pt")
    tiny = tmp_path / "tokenizer"
    tiny_tokenizer().save_pretrained(tiny)
    assert command(path, "--output", tmp_path / "out", "--vocab", tiny) == 2  # of a larger model
    assert "it is another model's" in capsys.readouterr().err
