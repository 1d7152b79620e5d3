# SPDX-License-Identifier: Apache-2.0
"""Tokens that look like a mark, folders that mislead, and input that is not there."""

from __future__ import annotations

import json
import os
import sys

import pytest
import torch
from fill_samples import trained, trained_model
from tiny_models import VOCABULARY, one_thread, tiny_config, tiny_tokenizer  # noqa: F401

from spanbert_ext import FilledText, SpanBertForPreTraining, fill_spans
from spanbert_ext.fill import heat_map
from spanbert_ext.fill.checkpoint import CheckpointError, load_checkpoint
from spanbert_ext.fill.fill_cli import main
from spanbert_ext.fill.results import FilledSpan, Guess, HeadFillings

TEXT = "the old {2} seeed a big [MASK] ."


def test_a_dot_that_is_filled_in_is_no_mark_of_ours():
    """`·` is a token of BERT's vocabulary."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["·"])
    torch.manual_seed(0)
    config = tiny_config()
    config.vocab_size = len(tokenizer)
    model = SpanBertForPreTraining(config)
    bias = model.get_output_embeddings().bias.data
    bias[len(tokenizer) - 1] = 60.0
    filled = fill_spans(model, tokenizer, "the old {2} cat [MASK]", 1, "mlm")
    assert filled.filled("mlm") == "the old · · cat ·"
    assert [span.heads["mlm"].fillings[0].joined for span in filled.spans] == [False, False]
    bias[VOCABULARY["##ed"]] = 90.0
    filled = fill_spans(model, tokenizer, "the watch [MASK] cat", 1, "mlm")
    assert filled.filled("mlm") == "the watched cat"
    assert filled.as_dict()["spans"][0]["heads"]["mlm"]["fillings"][0]["joined"] is True


# --- Checkpoints ----------------------------------------------------------------------------------------------


def test_a_cased_vocabulary_without_settings_keeps_case(tmp_path):
    """As spanbert-convert --legacy writes it: transformers reads it in lower case."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Paris", "paris", "The", "is", "##s"]
    config = tiny_config()
    config.vocab_size = len(words)
    trained(SpanBertForPreTraining(config)).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = load_checkpoint(str(tmp_path), device="cpu").tokenizer
    assert tokenizer.tokenize("The Paris paris") == ["The", "Paris", "paris"]
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert load_checkpoint(str(tmp_path), device="cpu").tokenizer.tokenize("Paris") == ["paris"]
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "vocab.txt").write_text("\n".join([*words[:5], "the", "is", "sat", "on", "##s"]))
    assert load_checkpoint(str(tmp_path), device="cpu").tokenizer.tokenize("The") == ["the"]


def test_the_run_around_a_folder_is_its_own(folder, tmp_path, monkeypatch):
    """Not that of the working directory, which is the parent of a relative name's parent."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"options": {"sbo": False}}))
    (tmp_path / "model").symlink_to(folder)
    monkeypatch.chdir(tmp_path / "run")
    assert load_checkpoint("../model", device="cpu").without_sbo is None
    (tmp_path / "run" / "checkpoints").mkdir()
    place = tmp_path / "run" / "checkpoints" / "checkpoint-3"
    trained_model().save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    assert "without the span-boundary objective" in load_checkpoint(str(place), device="cpu").without_sbo


@pytest.mark.parametrize("kind", ["config", "tokenizer"])
def test_code_in_a_folder_is_not_run_whatever_is_answered(folder, tmp_path, monkeypatch, kind):
    """transformers asks whether to, and takes the answer from standard input."""
    trace = tmp_path / "run"
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    file = tmp_path / ("config.json" if kind == "config" else "tokenizer_config.json")
    planted = {"auto_map": {"AutoConfig": "planted.P", "AutoTokenizer": ["planted.P", "planted.P"]}}
    name = "model_type" if kind == "config" else "tokenizer_class"
    file.write_text(json.dumps(json.loads(file.read_text()) | planted | {name: "Planted"}))
    (tmp_path / "planted.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    monkeypatch.setattr("builtins.input", lambda prompt="": "y")
    try:
        load_checkpoint(str(tmp_path), device="cpu")
    except CheckpointError:
        pass
    assert not trace.exists()


def test_a_planted_pickle_is_refused_by_name(folder, tmp_path):
    trace = tmp_path / "run"
    plant = type("Plant", (), {"__reduce__": lambda self: (os.system, (f"touch {trace}",))})()
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save({"bert.x": plant}, tmp_path / "pytorch_model.bin")
    (tmp_path / "optimizer.safetensors").write_bytes(b"")  # no weights of the model's
    with pytest.raises(
        CheckpointError, match=r"pytorch_model.bin is refused: it calls for posix.system"
    ) as error:
        load_checkpoint(str(tmp_path), device="cpu")
    assert "weights_only" not in str(error.value) and not trace.exists()


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + "/y/z", "~no-such-user/a/b"])
def test_names_that_no_file_has(folder, capsys, name):
    assert main([name, TEXT, "--device", "cpu"]) == 2
    assert main([str(folder), TEXT, "--device", "cpu", "--tokenizer", name]) == 2
    assert main([str(folder), "--device", "cpu", "--file", name]) == 2
    assert capsys.readouterr().err.count("spanbert-fill: error: ") == 3


def test_names_that_a_terminal_would_obey_are_escaped(tmp_path, capsys):
    place = tmp_path / "a\x1b[2J"
    place.mkdir()
    assert main([str(place), TEXT]) == 2
    error = capsys.readouterr().err
    assert "a\\x1b[2J holds neither" in error and "\x1b" not in error


def test_standard_input_that_is_closed(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    for more in ([], ["--interactive"], ["--file", "-"]):
        assert main([str(folder), "--device", "cpu", *more]) == 2
        error = capsys.readouterr().err
        assert "no text" in error or "standard input is closed" in error
    assert main([str(folder), TEXT, "--device", "cpu"]) == 0


def test_results_that_cannot_be_written_are_no_success(folder, capsys, monkeypatch):
    """As of `--json > filled.jsonl` on a full disk; a reader that has enough, as head, is no failure."""
    for place, status in (("/dev/full", 2), (None, 0)):
        if place is None:
            reader, writer = os.pipe()
            os.close(reader)
        with open(place or writer, "w") as out, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            assert main([str(folder), TEXT, "--device", "cpu", "--json"]) == status
        assert capsys.readouterr().err.count("output cannot be written: No space left") == (status == 2)


def test_an_sbo_under_its_published_names_is_no_ones_loss(folder, tmp_path):
    from spanbert_ext.convert import convert_cli

    assert (
        convert_cli.main([str(folder), "--legacy", "--output", str(tmp_path / "old"), "--no-progress"]) == 0
    )
    said = load_checkpoint(str(tmp_path / "old"), device="cpu").without_sbo
    assert "no weights of a span-boundary head but those under its published names" in said


# --- Pictures -------------------------------------------------------------------------------------------------


def test_a_picture_that_cannot_be_written_leaves_the_old_one(folder, tmp_path, capsys):
    import resource

    given = [str(folder), TEXT, "--device", "cpu", "--heat-map", str(tmp_path / "map.png")]
    assert main([*given, "--top-k", "1"]) == 0
    before = (tmp_path / "map.png").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        assert main(given) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "map.png cannot be written: File too large" in capsys.readouterr().err
    assert (tmp_path / "map.png").read_bytes() == before and len([*tmp_path.iterdir()]) == 1
    (tmp_path / "link.png").symlink_to(tmp_path / "map.png")
    assert main([*given[:-1], str(tmp_path / "link.png")]) == 0
    assert (tmp_path / "link.png").is_symlink() and (tmp_path / "map.png").read_bytes() != before


def test_a_picture_that_would_be_too_high(folder, tmp_path, capsys, monkeypatch):
    head = HeadFillings(((Guess("a", "a", 1, -1.0),) * 3000,), ())
    span = FilledSpan(1, 2, "a", "b", {"mlm": head}, (None,))
    with pytest.raises(ValueError, match="pixels high, and may be 65,535"):
        heat_map.draw_heat_map(FilledText("a", ("", ""), (span,)), tmp_path / "map.png")
    monkeypatch.setattr(heat_map, "_HIGHEST", 100)
    given = [str(folder), TEXT, "--device", "cpu", "--heat-map", str(tmp_path / "map.png")]
    assert main(given) == 2
    assert "map.png: the picture would be" in capsys.readouterr().err and not (tmp_path / "map.png").exists()
