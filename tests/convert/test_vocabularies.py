# SPDX-License-Identifier: Apache-2.0
"""Vocabularies of folders and files: in which case they are read, their forms, and what is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_folders import command, encoder_alone, hub_folder
from published_samples import (
    POSITIONS,
    VOCABULARY,
    V,
    published_state,
    save,
)
from tiny_models import make_model, one_thread, tiny_tokenizer, untie  # noqa: F401
from transformers import (
    AutoTokenizer,
)

from spanbert_ext.convert.checkpoint_file import CheckpointError
from spanbert_ext.convert.vocabulary import load_vocabulary, read_vocabulary


def test_a_cased_folder_without_settings_keeps_case(tmp_path):
    """transformers lowers the text of the published folders: their vocabulary is cased, and nothing says so."""
    source = hub_folder(tmp_path / "in", encoder_alone())
    assert AutoTokenizer.from_pretrained(source).tokenize("Paris") == ["paris"]
    assert command(source, "--output", tmp_path / "out") == 0
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["do_lower_case"] is False and settings["model_max_length"] == POSITIONS
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "Paris is in New York. The cat sat on paris"
    assert tokenizer.tokenize("Paris paris The") == ["Paris", "paris", "The"]
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert pieces == ["[CLS]", *text.replace(".", " .").split(), "[SEP]"]
    assert tokenizer.get_vocab() == {token: index for index, token in enumerate(VOCABULARY)}
    assert tokenizer("Paris")["input_ids"][0] == VOCABULARY.index("[CLS]")


@pytest.mark.parametrize("name", ["tokenizer.json", "both"])
def test_a_cased_tokenizer_without_a_word_about_case(tmp_path, name):
    source = hub_folder(tmp_path / "in", encoder_alone(), vocabulary=name == "both")
    load_vocabulary(write_vocabulary(tmp_path), 24).save_pretrained(tmp_path / "in")
    path = source / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["do_lower_case"]
    path.write_text(json.dumps(settings))
    assert command(source, "--output", tmp_path / "out") == 0
    assert AutoTokenizer.from_pretrained(tmp_path / "out").tokenize("Paris") == ["Paris"]


def test_an_uncased_vocabulary_and_one_that_asks_for_lower_case(tmp_path):
    lower = [token if token.startswith("[") else token.lower() for token in VOCABULARY]
    lower = [*dict.fromkeys(lower)]
    (tmp_path / "lower.txt").write_text("\n".join(lower))
    assert load_vocabulary(tmp_path / "lower.txt", 24).tokenize("Paris") == ["paris"]
    source = hub_folder(tmp_path / "in", encoder_alone())
    (source / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert load_vocabulary(source, 24).tokenize("Paris") == ["paris"]
    (source / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_vocabulary(source, 24).tokenize("Paris") == ["Paris"]


def write_vocabulary(folder: Path, tokens=VOCABULARY) -> Path:
    path = folder / "given.txt"
    path.write_text("".join(f"{token}\n" for token in tokens))
    return path


def test_the_dictionary_of_fairseq_is_a_vocabulary(tmp_path):
    path = write_vocabulary(tmp_path, [f"{token} {99 - i}" for i, token in enumerate(VOCABULARY)])
    assert read_vocabulary(path) == [*VOCABULARY]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "has no [PAD], [UNK]"),
        ("\n".join(VOCABULARY[:5]).encode(), "has no [MASK]"),
        ("\n".join([*VOCABULARY, "cat"]).encode(), "'cat' stands in line 11 and in line 28"),
        (b"\xff\xfe\0", "byte 0 is no UTF-8"),
    ],
)
def test_what_is_no_vocabulary(tmp_path, content, said):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_vocabulary(path, 24)
    assert said in str(error.value) and str(path) in str(error.value)


def test_a_vocabulary_of_another_model(tmp_path, capsys):
    path = save(published_state(), tmp_path / "model.pt")
    longer = write_vocabulary(tmp_path, [*VOCABULARY, "more"])
    assert command(path, "--output", tmp_path / "out", "--vocab", longer) == 2
    assert f"has {V + 1} tokens, but the model's embeddings have {V} rows" in capsys.readouterr().err
    assert command(path, "--output", tmp_path / "out", "--vocab", tmp_path / "nothing.txt") == 2
    assert "cannot load a tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("settings", ["tokenizer_config.json", "config.json"])
def test_a_folder_that_says_which_tokenizer_without_its_tokens(tmp_path, settings):
    (tmp_path / settings).write_text('{"tokenizer_class": "BertTokenizer", "model_type": "bert"}')
    with pytest.raises(CheckpointError, match="has no vocabulary: none of tokenizer.json, vocab.txt"):
        load_vocabulary(tmp_path, 24)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_the_byte_order_mark_of_windows(tmp_path, mark):
    path = tmp_path / "vocab.txt"
    path.write_bytes((mark + "\r\n".join(VOCABULARY)).encode() + b"\r\n")
    assert read_vocabulary(path) == [*VOCABULARY]


@pytest.mark.parametrize(
    ("name", "tokenizer"),
    [("spm.model", "DebertaV2Tokenizer"), ("sentencepiece.model", "RemBertTokenizer")],
)
def test_a_vocabulary_of_sentencepiece_is_not_passed_over(tmp_path, name, tokenizer, capsys):
    """By any of its names, as DeBERTa's and RemBERT's: the folder has a tokenizer, here one that is damaged."""
    source = hub_folder(tmp_path / "in", published_state(), vocabulary=False)
    (source / name).write_text("damaged")
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer}))
    assert command(source, "--output", tmp_path / "out") == 2
    assert "cannot load a tokenizer" in capsys.readouterr().err
