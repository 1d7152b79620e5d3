# SPDX-License-Identifier: Apache-2.0
"""Files that are made to mislead: tensors that are not there, repacked archives, names that a terminal would obey."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from published_samples import published_state, run_checkpoint, save
from tiny_models import make_model, one_thread, tiny_tokenizer  # noqa: F401

from spanbert_ext import load_fairseq_checkpoint
from spanbert_ext.convert import convert_cli
from spanbert_ext.convert.checkpoint_file import CheckpointError
from spanbert_ext.convert.model_folders import load_model_folder

BIAS, WORDS = "cls.predictions.bias", "bert.embeddings.word_embeddings.weight"


def command(*arguments) -> int:
    return convert_cli.main([*map(str, arguments), "--no-progress"])


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_fairseq_checkpoint(path)
    return str(error.value)


def repacked(path: Path, compression: int = zipfile.ZIP_DEFLATED, **more: bytes) -> Path:
    """As unpacked and packed again."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()} | more
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_an_archive_that_was_compressed_is_refused(tmp_path):
    """torch maps its bytes as if they were the numbers."""
    path = repacked(save(published_state(), tmp_path / "model.pt", old=False))
    said = refusal(path)
    assert "is compressed, which torch.save never does" in said and str(path) in said


def test_an_archive_that_was_packed_again_as_it_was_is_read(tmp_path):
    path = repacked(save(published_state(), tmp_path / "model.pt", old=False), zipfile.ZIP_STORED)
    own = load_fairseq_checkpoint(path).state_dict()
    assert torch.equal(own[WORDS], published_state()[WORDS])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_other_archives_are_told_apart(tmp_path):
    path = tmp_path / "spanbert.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("spanbert/config.json", "{}")
    assert "has no data.pkl): unpack it first" in refusal(path)
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    assert "is a TorchScript program" in refusal(tmp_path / "script.pt")


@pytest.mark.parametrize("key", [BIAS, WORDS])
def test_a_tensor_larger_than_what_is_stored_of_it(tmp_path, key):
    """A few bytes can claim any size: nothing of that size is made."""
    state = published_state(dtype=torch.float16)
    state[key] = torch.zeros(1, dtype=torch.float16).expand(state[key].shape)
    said = refusal(save(state, tmp_path / "model.pt"))
    assert f"{key} has shape" in said and "the file has 1 numbers of it" in said


@pytest.mark.parametrize(
    "name", ["pair_target_layer", "endpoints", "hidden_size", "num_attention_heads", "hidden_dropout_prob"]
)
def test_arguments_that_are_tensors(tmp_path, name):
    content = run_checkpoint(published_state(), **{name: torch.tensor([1, 2])})
    assert f"{name} is tensor([1, 2])" in refusal(save(content, tmp_path / "model.pt"))


def test_names_that_a_terminal_would_obey_are_escaped(tmp_path, capsys):
    path = save(published_state() | {"cls.\x1b[2J\nwrote": torch.zeros(2)}, tmp_path / "model.pt")
    assert command(path, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "\\x1b[2J\\nwrote is unknown" in error and error.count("\n") == 1 and "\x1b" not in error
    source = tmp_path / "in"
    make_model().save_pretrained(source)
    weights = {**make_model().state_dict(), "qa.\x1b[2J": torch.zeros(2)}
    (source / "model.safetensors").unlink()
    save(weights, source / "pytorch_model.bin")
    assert command(source, "--output", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "qa.\\x1b[2J" in said and "\x1b" not in said


@pytest.mark.parametrize("value", [{"num_attention_heads": 5}, {"hidden_act": "none"}, {"pad_token_id": 999}])
def test_a_configuration_that_makes_no_model(tmp_path, value):
    make_model().bert.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("span_pretraining", None)
    (tmp_path / "config.json").write_text(json.dumps(config | value))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model_folder(tmp_path)


@pytest.mark.parametrize("kind", ["config", "tokenizer"])
def test_code_in_a_folder_is_not_run_whatever_is_answered(tmp_path, monkeypatch, capsys, kind):
    """transformers asks whether to, and takes the answer from standard input."""
    source, trace = tmp_path / "in", tmp_path / "run"
    make_model().save_pretrained(source)
    tiny_tokenizer().save_pretrained(source)
    file = "config.json" if kind == "config" else "tokenizer_config.json"
    settings = json.loads((source / file).read_text())
    if kind == "config":
        settings |= {"model_type": "planted", "auto_map": {"AutoConfig": "planted.Planted"}}
    else:
        settings |= {
            "tokenizer_class": "Planted",
            "auto_map": {"AutoTokenizer": ["planted.Planted", "planted.Planted"]},
        }
    (source / file).write_text(json.dumps(settings))
    (source / "planted.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    monkeypatch.setattr("builtins.input", lambda prompt="": "y")
    command(source, "--output", tmp_path / "out")
    assert not trace.exists()


# --- Instructions of pickles one by one --------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [0, 1])
def test_old_pickles_are_refused_by_what_is_foreign_in_them(tmp_path, protocol):
    path = save(
        run_checkpoint(published_state(), evil=getattr), tmp_path / "model.pt", pickle_protocol=protocol
    )
    said = refusal(path)
    assert "builtins.getattr" in said and "Namespace" not in said and "torch." not in said


@pytest.mark.filterwarnings("error")
def test_a_later_protocol_is_read_without_a_word(tmp_path):
    path = save(run_checkpoint(published_state()), tmp_path / "model.pt", pickle_protocol=3)
    assert load_fairseq_checkpoint(path).config.num_attention_heads == 4


def assembled(*instructions: bytes) -> bytes:
    return b"\x80\x02" + b"".join(instructions) + b"."


SYSTEM, ARGUMENT = b"cos\nsystem\n", b"X\x04\0\0\0trueq\x00\x85"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (assembled(b"(S'true'\nios\nsystem\n"), "os.system"),  # INST
        (assembled(SYSTEM, ARGUMENT, b"R"), "os.system"),
        (assembled(SYSTEM, b")\x81"), "os.system"),  # NEWOBJ
        (
            assembled(b"cargparse\nNamespace\n)\x81}X\x01\0\0\0a", SYSTEM, b"sb"),
            "os.system",
        ),  # in a Namespace
        (assembled(b"cargparse\nArgumentParser\n)\x81"), "argparse.ArgumentParser"),
        (assembled(b"X\x04\0\0\0evilQ"), "damaged"),  # a persistent name that is no storage
        (assembled(b"P1\n"), "damaged"),
        (assembled(b"\x82\x01"), "damaged"),  # an extension's number
        (assembled(b"ctorch.serialization\nload\n", ARGUMENT, b"R"), "torch.serialization.load"),
        (assembled(b"cbuiltins\nprint\n", ARGUMENT, b"R"), "builtins.print"),
        (assembled(b"\x8e\xff\xff\xff\xff\xff\xff\xff\x00"), "damaged"),  # bytes without end
        (assembled(b"X\xff\xff\xff\x7f"), "damaged"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_no_instruction_runs_anything(tmp_path, content, said, zipped):
    path = tmp_path / "model.pt"
    if zipped:
        save({"x": torch.zeros(2)}, path, old=False)
        repacked(path, zipfile.ZIP_STORED, **{"model/data.pkl": content})
    else:
        path.write_bytes(
            pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + b"\x80\x02}." + content
        )
    found = refusal(path)
    assert said in found and str(path) in found
