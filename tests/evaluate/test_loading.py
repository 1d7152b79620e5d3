# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as tasks load them: all of an encoder, and new weights that a seed fixes."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers")

import tiny_tasks
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForQuestionAnswering, AutoModelForSequenceClassification

from spanbert_ext.evaluate.tasks.form import Checkpoint, EvaluationError
from spanbert_ext.evaluate.tasks.loading import load_model, load_tokenizer, longest_row


@pytest.fixture
def checkpoint(tmp_path):
    return tiny_tasks.save_checkpoint(tmp_path / "model", tiny_tasks.tokenizer_of(["a b c"]))


def weights_of(checkpoint, keep) -> None:
    path = checkpoint.folder / "model.safetensors"
    kept = {name: value for name, value in load_file(path).items() if keep(name)}
    save_file(kept, path, metadata={"format": "pt"})


def test_new_weights_are_the_seeds_and_the_encoder_is_the_checkpoints(checkpoint) -> None:
    first, again, other = (load_model(AutoModelForQuestionAnswering, checkpoint, seed) for seed in (1, 1, 2))
    saved = load_file(checkpoint.folder / "model.safetensors")
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
        if name in saved:
            assert torch.equal(value, saved[name]) and torch.equal(value, other.state_dict()[name])
    assert not torch.equal(first.qa_outputs.weight, other.qa_outputs.weight)


def saved(model, folder) -> Checkpoint:
    model.save_pretrained(folder)
    tiny_tasks.tokenizer_of(["a b c"]).save_pretrained(folder)
    return Checkpoint(folder.name, folder, "")


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForSequenceClassification])
def test_a_head_and_what_is_drawn_afterwards_do_not_depend_on_a_pooler(
    checkpoint, tmp_path, auto_class
) -> None:
    first = load_model(auto_class, checkpoint, 1)
    drawn = torch.randn(3)
    pooled = saved(load_model(AutoModel, checkpoint, 2), tmp_path / "pooled")
    other = load_model(auto_class, pooled, 1)
    assert torch.equal(torch.randn(3), drawn)
    if auto_class is AutoModelForSequenceClassification:
        assert torch.equal(first.classifier.weight, other.classifier.weight)
        assert not torch.equal(first.bert.pooler.dense.weight, other.bert.pooler.dense.weight)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_head_that_was_trained_before_is_drawn_anew(checkpoint, tmp_path, classes: int) -> None:
    trained = load_model(AutoModelForSequenceClassification, checkpoint, 1, num_labels=2)
    with torch.no_grad():
        trained.classifier.weight.fill_(1.0)
        trained.classifier.bias.fill_(1.0)
    other = saved(trained, tmp_path / "trained")
    heads = [
        load_model(AutoModelForSequenceClassification, one, 3, num_labels=classes).classifier
        for one in (checkpoint, other)
    ]
    assert torch.equal(heads[0].weight, heads[1].weight) and not heads[1].bias.any()


def test_an_encoder_of_another_shape_than_its_configuration_is_refused(checkpoint) -> None:
    path = checkpoint.folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 96}))
    with pytest.raises(EvaluationError, match=r"bert\.encoder\..* has not the shape that config.json says"):
        load_model(AutoModelForQuestionAnswering, checkpoint, 0)


@pytest.mark.parametrize("word", ["Paris", "paris"])
def test_a_vocabulary_without_settings_is_read_in_its_case(checkpoint, word: str) -> None:
    for path in checkpoint.folder.glob("tokenizer*"):
        path.unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", word, "a"]
    (checkpoint.folder / "vocab.txt").write_text("\n".join(words))
    assert load_tokenizer(checkpoint).tokenize("Paris a") == [word, "a"]


@pytest.mark.parametrize("types, given", [(2, True), (1, False), (0, False)])
def test_token_types_are_given_to_encoders_that_have_two(tmp_path, types: int, given: bool) -> None:
    tokenizer = tiny_tasks.tokenizer_of(["a b c"])
    checkpoint = tiny_tasks.save_checkpoint(tmp_path / "model", tokenizer, type_vocab_size=max(types, 1))
    path = checkpoint.folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"type_vocab_size": types}))
    encoded = load_tokenizer(checkpoint)("a", "b")
    assert list(encoded) == ["input_ids", *["token_type_ids"] * given, "attention_mask"]


@pytest.mark.parametrize(
    "auto_class", [AutoModel, AutoModelForQuestionAnswering, AutoModelForSequenceClassification]
)
def test_a_missing_layer_is_refused_and_a_missing_pooler_is_not(checkpoint, auto_class) -> None:
    load_model(auto_class, checkpoint, 0)  # a masked language model's folder has no pooler
    weights_of(checkpoint, lambda name: "attention.self.query" not in name)
    with pytest.raises(EvaluationError, match=r"lacks 2 weights of its encoder \(.*query"):
        load_model(auto_class, checkpoint, 0)


def test_keys_without_the_encoders_prefix_are_found(checkpoint) -> None:
    """As sentence-transformers saves an encoder."""
    path = checkpoint.folder / "model.safetensors"
    bare = {n.removeprefix("bert."): v.clone() for n, v in load_file(path).items() if n.startswith("bert.")}
    save_file(bare, path, metadata={"format": "pt"})
    model = load_model(AutoModelForQuestionAnswering, checkpoint, 0)
    name = "embeddings.word_embeddings.weight"
    assert torch.equal(model.bert.state_dict()[name], bare[name])


def test_a_tokenizer_of_another_model_is_refused(checkpoint) -> None:
    tiny_tasks.tokenizer_of(["many other words than those of the model"]).save_pretrained(checkpoint.folder)
    with pytest.raises(EvaluationError, match="they do not belong together"):
        load_tokenizer(checkpoint)


def test_a_tokenizer_without_the_tokens_of_a_row_is_refused(checkpoint) -> None:
    path = checkpoint.folder / "tokenizer_config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"cls_token": None, "tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(EvaluationError, match="has no cls_token"):
        load_tokenizer(checkpoint)


def test_a_row_is_as_long_as_the_encoder_reads(checkpoint) -> None:
    assert longest_row(checkpoint, 384) == 128
    assert longest_row(checkpoint, 64) == 64
    path = checkpoint.folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 6}))
    with pytest.raises(EvaluationError, match="has positions for 6 tokens, expected 16 at least"):
        longest_row(checkpoint, 64)
